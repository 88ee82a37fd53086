//! A client of the daemon's HTTP, and what its metrics say.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use crate::support::{DEADLINE, Machine, eventually, slowness};

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// The lines of its head, in lower case up to the colon.
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Answer {
    fn of(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?;
        let (head, body) = text.split_once("\r\n\r\n")?;
        let mut lines = head.lines();
        let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
        let header = |line: &str| line.split_once(": ").map(|(name, value)| (name.to_lowercase(), value.to_owned()));
        Some(Self { status, headers: lines.filter_map(header).collect(), body: body.to_owned() })
    }

    /// A header, empty where there is none.
    pub fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(found, _)| found == name).map_or("", |(_, value)| value)
    }

    /// The value of a sample: `name` or `name{label="…"}`, as it stands.
    #[track_caller]
    pub fn value(&self, sample: &str) -> f64 {
        self.find(sample).unwrap_or_else(|| panic!("{sample} is not in {}", self.body))
    }

    /// The same where it may not be there.
    pub fn find(&self, sample: &str) -> Option<f64> {
        let line =
            self.body.lines().find(|line| line.strip_prefix(sample).is_some_and(|rest| rest.starts_with(' ')))?;
        line[sample.len()..].trim().parse().ok()
    }
}

/// Sends a request as it is, and reads all that comes until the other side hangs up.
#[track_caller]
pub fn exchange(mut stream: impl Read + Write, request: &str) -> Vec<u8> {
    let _ = stream.write_all(request.as_bytes());
    let mut answer = Vec::new();
    let mut buffer = [0; 8192];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return answer,
            Ok(read) => answer.extend(&buffer[..read]),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => panic!("no answer to {request:?}"),
            // It hung up with something of ours unread.
            Err(_) => return answer,
        }
    }
}

/// How long an answer may take.
pub fn patience() -> Duration {
    DEADLINE * slowness()
}

impl Machine {
    /// A connection to the socket for metrics beside the daemon's own.
    #[track_caller]
    pub fn http(&self) -> UnixStream {
        let path = self.path("pinfold.sock.http");
        let stream = eventually("the daemon listens for scrapes", || {
            UnixStream::connect(&path).map_err(|error| format!("{error}; {}", self.log()))
        });
        stream.set_read_timeout(Some(patience())).unwrap();
        stream
    }

    /// Asks over that connection.
    #[track_caller]
    pub fn request(&self, method: &str, path: &str, headers: &str) -> Answer {
        let request = format!("{method} {path} HTTP/1.1\r\nHost: any\r\nConnection: close\r\n{headers}\r\n");
        let bytes = exchange(self.http(), &request);
        Answer::of(&bytes).unwrap_or_else(|| panic!("{:?}; {}", String::from_utf8_lossy(&bytes), self.log()))
    }

    /// `GET PATH`, which succeeds.
    #[track_caller]
    pub fn get(&self, path: &str) -> Answer {
        let answer = self.request("GET", path, "");
        assert_eq!(answer.status, 200, "{answer:?}; {}", self.log());
        answer
    }

    /// The metrics.
    #[track_caller]
    pub fn scrape(&self) -> Answer {
        self.get("/metrics")
    }

    /// Asks over TCP.
    #[track_caller]
    pub fn request_at(&self, port: u16, head: &str) -> Answer {
        let stream = eventually("the daemon listens on loopback", || {
            std::net::TcpStream::connect(("127.0.0.1", port)).map_err(|error| format!("{error}; {}", self.log()))
        });
        stream.set_read_timeout(Some(patience())).unwrap();
        let bytes = exchange(stream, head);
        Answer::of(&bytes).unwrap_or_else(|| panic!("{:?}; {}", String::from_utf8_lossy(&bytes), self.log()))
    }
}
