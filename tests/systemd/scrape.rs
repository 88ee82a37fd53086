//! Where an installed daemon tells its metrics when its configuration does not say so.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;

use crate::installed::Installed;
use crate::support::*;

/// The whole answer to a scrape.
fn scrape(mut stream: impl Read + Write) -> Result<String, String> {
    let request = b"GET /metrics HTTP/1.1\r\nHost: localhost:9317\r\nConnection: close\r\n\r\n";
    let mut answer = String::new();
    let got = stream.write_all(request).and_then(|()| stream.read_to_string(&mut answer));
    got.map_err(|error| error.to_string())?;
    if answer.starts_with("HTTP/1.1 200 ") { Ok(answer) } else { Err(answer) }
}

#[test]
fn an_installed_daemon_is_scraped_on_loopback_or_as_a_users_on_its_own_socket() {
    if !offered() {
        return;
    }
    let installed = Installed::new();
    assert!(systemctl(&["start", "pinfold.service"]).status.success());
    installed.expect_active(0);
    let answer = eventually("it is scraped", || {
        if is_system() {
            scrape(TcpStream::connect("127.0.0.1:9317").map_err(|error| error.to_string())?)
        } else {
            let directory = std::env::var_os("XDG_RUNTIME_DIR").unwrap();
            let path = std::path::Path::new(&directory).join("pinfold/pinfold.sock.http");
            scrape(UnixStream::connect(path).map_err(|error| error.to_string())?)
        }
    });
    assert!(answer.contains("\npinfold_build_info{version="), "{answer}");
    assert_eq!(TcpStream::connect("127.0.0.1:9317").is_ok(), is_system(), "loopback is the system's daemon's");
}
