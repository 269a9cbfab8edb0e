//! Stickpin inside another program, in front of the addresses given on the command line.
//!
//! `cargo run --example embed -- 127.0.0.1:9101 127.0.0.1:9102`

use std::error::Error;
use std::io;
use std::path::Path;
use std::time::Duration;

use stickpin::app::App;
use stickpin::config::Config;

fn main() -> Result<(), Box<dyn Error>> {
    let backends: String = std::env::args().skip(1).map(|address| format!("      - address: {address}\n")).collect();
    let yaml = format!("listeners:\n  - address: 127.0.0.1:0\npools:\n  app:\n    backends:\n{backends}");

    // Either a whole configuration, or every problem in it.
    let config = Config::parse("embed.yaml", &yaml).map_err(|problems| problems.to_string())?;
    // Files that the configuration names are relative to this folder.
    let app = App::bind(config, Path::new("."))?;
    println!("http://{}/ leads to the backends; Enter stops", app.listeners()[0]);

    let running = app.start()?;
    io::stdin().read_line(&mut String::new())?;
    // Requests under way may finish until then.
    running.stop(Duration::from_secs(5));
    Ok(())
}
