//! How the story looks: one line per request and its reply, equal ones counted instead of repeated.

use std::env;
use std::fmt::Display;
use std::io::{self, IsTerminal, Write};

/// Standard output, coloured when somebody looks at it.
#[derive(Debug)]
pub(crate) struct Terminal {
    coloured: bool,
    last: String,
    repeated: usize,
}

#[derive(Clone, Copy)]
enum Colour {
    Bold,
    Dim,
    Green,
    Red,
}

impl Default for Terminal {
    fn default() -> Self {
        let coloured = io::stdout().is_terminal() && env::var_os("NO_COLOR").is_none();
        Self { coloured, last: String::new(), repeated: 0 }
    }
}

impl Terminal {
    /// The heading of a step.
    pub(crate) fn heading(&mut self, text: &str) {
        let text = self.paint(Colour::Bold, text);
        self.line(&format!("\n{text}"));
    }

    /// Something done that is no request.
    pub(crate) fn action(&mut self, text: &str) {
        let text = self.paint(Colour::Dim, text);
        self.line(&format!("   {text}"));
    }

    /// What was sent and what came back.
    pub(crate) fn exchange(&mut self, line: &str) {
        if self.last == line {
            self.repeated += 1;
            return;
        }
        self.line(&format!("   {line}"));
        line.clone_into(&mut self.last);
    }

    /// A statement that holds.
    pub(crate) fn holds(&mut self, text: &str) {
        let mark = self.paint(Colour::Green, "ok");
        self.line(&format!("   {mark}  {text}"));
    }

    /// A statement that does not.
    pub(crate) fn fails(&mut self, text: &str) {
        let mark = self.paint(Colour::Red, "NO");
        self.line(&format!("   {mark}  {text}"));
    }

    /// Any other text.
    pub(crate) fn plain(&mut self, text: &str) {
        self.line(text);
    }

    /// Whoever closed the output does not want the rest, but the story still decides the exit code.
    fn line(&mut self, text: &str) {
        let mut out = io::stdout().lock();
        if self.repeated > 0 {
            let _ = writeln!(out, "   … and {} more like it", self.repeated);
        }
        let _ = writeln!(out, "{text}");
        (self.last, self.repeated) = (String::new(), 0);
    }

    fn paint(&self, colour: Colour, text: impl Display) -> String {
        let code = match colour {
            Colour::Bold => 1,
            Colour::Dim => 2,
            Colour::Green => 32,
            Colour::Red => 31,
        };
        if self.coloured { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_string() }
    }
}
