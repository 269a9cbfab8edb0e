//! The page for a browser: forms and links only.

use super::sessions::Session;
use super::settings::Keeping;

/// What a page tells.
#[derive(Debug)]
pub struct Page<'a> {
    /// Which server this is.
    pub served_by: &'a str,
    /// Where its sessions live.
    pub keeping: &'a Keeping,
    /// What it knows of whoever asks.
    pub session: &'a Session,
    /// Where Stickpin says the client was before; empty when it says nothing.
    pub rehomed_from: &'a str,
}

impl Page<'_> {
    /// The HTML.
    pub fn html(&self) -> String {
        let server = escape(self.served_by);
        let who = match self.session {
            Session::Known(login) => {
                let user = escape(&login.user);
                format!(
                    "<form method=post action=/logout>You are <b>{user}</b>. Visit {} of this login. \
                     <button>Log out</button></form>",
                    login.visits
                )
            }
            Session::None => "<p>You are not logged in.</p>".to_owned(),
            Session::Unknown => format!(
                "<p class=lost><b>Your login is lost.</b> {server}, which answers now, has never heard of it.</p>"
            ),
        };
        let moved = match self.rehomed_from {
            "" => String::new(),
            from => {
                format!("<p class=lost>Stickpin says: you were at {}, your home is {server} now.</p>", escape(from))
            }
        };
        format!(
            "<!doctype html><html lang=en><meta charset=utf-8><title>{server}</title><link rel=icon href=data:,>\n\
             <style>body{{font:1.1em/1.5 sans-serif;max-width:34em;margin:3em auto;padding:0 1em}}\
             .lost{{border-left:.3em solid #c33;padding-left:.7em}}</style>\n\
             <h1>{server}</h1>\n<p>{}</p>\n{who}\n{moved}\n\
             <form method=post action=/login><label>Log in as <input name=user maxlength=40 required></label> \
             <button>Log in</button></form>\n\
             <p><a href=/>Ask again</a> · <a href=/whoami>the same as JSON</a></p></html>\n",
            self.keeping.told()
        )
    }
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c => escaped.push(c),
        }
    }
    escaped
}
