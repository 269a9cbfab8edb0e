//! The README's first command.

use std::net::{Ipv4Addr, TcpListener};
use std::process::Command;

use crate::support::{ReservedPort, example};

#[test]
fn every_step_of_the_story_holds() {
    let story = Command::new(example("demo")).arg("--story").output().unwrap();
    let (told, log) = (String::from_utf8_lossy(&story.stdout), String::from_utf8_lossy(&story.stderr));
    assert!(story.status.success(), "{}\n{told}\n{log}", story.status);
    assert!(told.ends_with("Every step held.\n"), "{told}");
}

#[test]
fn a_taken_port_is_named_with_the_option_that_moves_it() {
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let (taken, free) = (taken.local_addr().unwrap().port(), ReservedPort::new().unwrap());
    let free = free.address().port();
    for (front, admin, option) in [(taken, free, "--port"), (free, taken, "--admin-port")] {
        let ports = ["--port".to_owned(), front.to_string(), "--admin-port".to_owned(), admin.to_string()];
        let demo = Command::new(example("demo")).args(ports).output().unwrap();
        assert_eq!(demo.status.code(), Some(1));
        let expected = format!("demo: port {taken} on 127.0.0.1 is taken; {option} chooses another\n");
        assert_eq!(String::from_utf8_lossy(&demo.stderr), expected);
    }
}
