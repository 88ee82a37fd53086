//! A container engine, over the socket of its API (Docker's, which podman's speaks too): what it says of itself, and the end of
//! containers that carry a server's labels.
//!
//! No program of an engine's is run. Whoever connects has the rights that the socket asks for; one who connects for somebody
//! else says whose process has to be listening, and sends nothing to any other.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use serde::{Deserialize, de::DeserializeOwned};

/// How long an engine may take to say how it is. A host waits meanwhile.
const ANSWER_MAX: Duration = Duration::from_secs(2);

/// How long it may take to remove what a server has, its kills included.
const REMOVAL_MAX: Duration = Duration::from_secs(20);

/// The longest answer that is read.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// How many containers of one server are removed at a time.
const CONTAINERS_MAX: usize = 64;

/// How long the name of a container may be that an engine gives it: 64 hex digits.
const ID_BYTES_MAX: usize = 64;

/// Why an engine did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// It is not there, or does not answer.
    #[error("the container engine at {} does not answer", socket.display())]
    Silent {
        /// Its socket.
        socket: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// It is somebody else's.
    #[error("the container engine at {} runs as uid {uid}, and not as the user whose container it is to remove", socket.display())]
    Foreign {
        /// Its socket.
        socket: PathBuf,
        /// Whose it is.
        uid: u32,
    },
    /// It answers otherwise than one does.
    #[error("the container engine at {} answers {status}", socket.display())]
    Refused {
        /// Its socket.
        socket: PathBuf,
        /// Its status line, or what is wrong with it.
        status: String,
    },
    /// What was to be removed is still there.
    #[error("the container engine at {} still has {left} containers of the server", socket.display())]
    Left {
        /// Its socket.
        socket: PathBuf,
        /// How many.
        left: usize,
    },
}

/// The engine behind a socket.
#[derive(Debug, Clone)]
pub struct Engine<'a> {
    socket: &'a Path,
    /// Who has to be listening, where not everybody may.
    of: Option<u32>,
}

/// What an engine says of itself.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Info {
    /// How it makes cgroups: `systemd`, `cgroupfs` or `none`.
    pub cgroup_driver: String,
    /// `1` or `2`.
    #[serde(default)]
    pub cgroup_version: String,
    /// Of the kernel that its containers run on.
    #[serde(default)]
    pub kernel_version: String,
    /// Of its machine.
    pub name: String,
    /// Among them whether it is one without root.
    #[serde(default)]
    pub security_options: Option<Vec<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Container {
    id: String,
}

impl<'a> Engine<'a> {
    /// The one that listens there.
    pub fn at(socket: &'a Path) -> Self {
        Self { socket, of: None }
    }

    /// The same, if it is a process of this user's.
    pub fn of(self, user: u32) -> Self {
        Self { of: Some(user), ..self }
    }

    /// What it says of itself.
    pub fn info(&self) -> Result<Info, EngineError> {
        self.get("/info", Instant::now() + ANSWER_MAX)
    }

    /// Removes, with force, the running containers that carry all of these labels, and proves it by asking again. Those that
    /// have ended are their user's to keep.
    pub fn remove(&self, labels: &[(&str, &str)]) -> Result<usize, EngineError> {
        let until = Instant::now() + REMOVAL_MAX;
        let found = self.running(labels, until)?;
        for container in &found {
            let path = format!("/containers/{}?force=true", container.id);
            match self.ask("DELETE", &path, until) {
                // One that is gone, or on its way, is what was asked for: it is looked for again.
                Err(EngineError::Refused { .. }) | Ok(_) => {}
                Err(error) => return Err(error),
            }
        }
        match self.running(labels, until)?.len() {
            0 => Ok(found.len()),
            left => Err(EngineError::Left { socket: self.socket.to_owned(), left }),
        }
    }

    fn running(&self, labels: &[(&str, &str)], until: Instant) -> Result<Vec<Container>, EngineError> {
        let labels: Vec<String> = labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let filters = escaped(&serde_json::json!({ "label": labels }).to_string());
        let mut found: Vec<Container> = self.get(&format!("/containers/json?filters={filters}"), until)?;
        let is_id = |id: &str| id.len() <= ID_BYTES_MAX && !id.is_empty() && id.bytes().all(|b| b.is_ascii_hexdigit());
        if !found.iter().all(|container| is_id(&container.id)) {
            return Err(self.refused("with a container whose id is none"));
        }
        found.truncate(CONTAINERS_MAX);
        Ok(found)
    }

    fn get<T: DeserializeOwned>(&self, path: &str, until: Instant) -> Result<T, EngineError> {
        let body = self.ask("GET", path, until)?;
        serde_json::from_slice(&body).map_err(|_| self.refused("what is no answer to that"))
    }

    fn refused(&self, status: &str) -> EngineError {
        EngineError::Refused { socket: self.socket.to_owned(), status: status.to_owned() }
    }

    /// The body of its answer. By HTTP/1.0, which has no chunks and ends with its connection.
    fn ask(&self, method: &str, path: &str, until: Instant) -> Result<Vec<u8>, EngineError> {
        let silent = |source: io::Error| EngineError::Silent { socket: self.socket.to_owned(), source };
        let left = || {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() { Err(silent(io::ErrorKind::TimedOut.into())) } else { Ok(left) }
        };
        let mut stream = connect(self.socket).map_err(silent)?;
        if let Some(user) = self.of {
            let peer = rustix::net::sockopt::socket_peercred(&stream).map_err(|errno| silent(errno.into()))?;
            let uid = peer.uid.as_raw();
            if uid != user {
                return Err(EngineError::Foreign { socket: self.socket.to_owned(), uid });
            }
        }
        stream.set_write_timeout(Some(left()?)).map_err(silent)?;
        let request = format!("{method} {path} HTTP/1.0\r\nHost: engine\r\n\r\n");
        stream.write_all(request.as_bytes()).map_err(silent)?;
        let (mut answer, mut part) = (Vec::new(), [0; 8192]);
        loop {
            stream.set_read_timeout(Some(left()?)).map_err(silent)?;
            match stream.read(&mut part) {
                Ok(0) => break,
                Ok(read) => answer.extend_from_slice(&part[..read]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(silent(error)),
            }
            if answer.len() > ANSWER_BYTES_MAX {
                return Err(self.refused("more than is read"));
            }
        }
        let (status, body) = parts(&answer).ok_or_else(|| self.refused("what is no HTTP"))?;
        if (200..300).contains(&status) { Ok(body.to_vec()) } else { Err(self.refused(&format!("status {status}"))) }
    }
}

/// Connects, if somebody takes it at once: one who lets callers wait could let them wait for ever (connect(2)).
fn connect(socket: &Path) -> io::Result<UnixStream> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let stream = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&stream, &SocketAddrUnix::new(socket)?)?;
    let stream = UnixStream::from(stream);
    stream.set_nonblocking(false)?;
    Ok(stream)
}

/// The status and the body of an answer.
fn parts(answer: &[u8]) -> Option<(u16, &[u8])> {
    let head = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n")?;
    let status = std::str::from_utf8(&answer[..head]).ok()?.strip_prefix("HTTP/1.")?.split(' ').nth(1)?;
    Some((status.parse().ok()?, &answer[head + 4..]))
}

/// A text as part of a query (RFC 3986, section 2.1).
fn escaped(text: &str) -> String {
    let escape = |byte: u8| match byte {
        b if b.is_ascii_alphanumeric() || b"-._~".contains(&b) => char::from(b).to_string(),
        b => format!("%{b:02X}"),
    };
    text.bytes().map(escape).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn an_engine_that_takes_no_caller_or_never_answers_holds_nobody_up() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("s");
        let address = SocketAddrUnix::new(&socket).unwrap();
        let listener = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
        rustix::net::bind(&listener, &address).unwrap();
        rustix::net::listen(&listener, 0).unwrap();
        let start = Instant::now();
        // The first is let in and never answered, and then there is no room.
        let silent = Engine::at(&socket).info().unwrap_err();
        assert!(matches!(silent, EngineError::Silent { .. }) && start.elapsed() >= ANSWER_MAX, "{silent}");
        let full: Vec<_> = std::iter::from_fn(|| connect(&socket).ok()).take(64).collect();
        assert!(full.len() < 64, "there is always room");
        let start = Instant::now();
        assert!(matches!(Engine::at(&socket).info().unwrap_err(), EngineError::Silent { .. }));
        assert!(start.elapsed() < ANSWER_MAX);
    }

    /// An engine that knows two containers until they are deleted, and takes down what it is asked.
    fn engine(socket: &Path, requests: usize) -> std::thread::JoinHandle<Vec<String>> {
        let listener = UnixListener::bind(socket).unwrap();
        std::thread::spawn(move || {
            let (mut asked, mut living) = (Vec::new(), vec!["ab12", "cd34"]);
            for _ in 0..requests {
                let (mut stream, _) = listener.accept().unwrap();
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    let mut byte = [0];
                    stream.read_exact(&mut byte).unwrap();
                    request.push(byte[0]);
                }
                let line = String::from_utf8(request).unwrap().lines().next().unwrap().to_owned();
                let answer = if line.starts_with("DELETE") {
                    living.retain(|id| !line.contains(id));
                    "HTTP/1.0 204 No Content\r\n\r\n".to_owned()
                } else {
                    let living: Vec<_> =
                        living.iter().map(|id| serde_json::json!({ "Id": id, "Image": "x" })).collect();
                    format!("HTTP/1.0 200 OK\r\n\r\n{}", serde_json::Value::from(living))
                };
                stream.write_all(answer.as_bytes()).unwrap();
                asked.push(line);
            }
            asked
        })
    }

    #[test]
    fn what_carries_the_labels_is_removed_and_looked_for_again() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("engine.sock");
        let asked = engine(&socket, 4);
        let own = rustix::process::getuid().as_raw();
        assert_eq!(Engine::at(&socket).of(own).remove(&[("a", "b c")]).unwrap(), 2);
        assert_eq!(
            asked.join().unwrap(),
            [
                "GET /containers/json?filters=%7B%22label%22%3A%5B%22a%3Db%20c%22%5D%7D HTTP/1.0",
                "DELETE /containers/ab12?force=true HTTP/1.0",
                "DELETE /containers/cd34?force=true HTTP/1.0",
                "GET /containers/json?filters=%7B%22label%22%3A%5B%22a%3Db%20c%22%5D%7D HTTP/1.0",
            ]
        );
    }

    #[test]
    fn nothing_is_sent_to_a_process_of_somebody_else() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("engine.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let own = rustix::process::getuid().as_raw();
        let error = Engine::at(&socket).of(own + 1).remove(&[]).unwrap_err();
        assert!(matches!(error, EngineError::Foreign { uid, .. } if uid == own), "{error}");
        let (mut stream, _) = listener.accept().unwrap();
        let mut sent = Vec::new();
        stream.read_to_end(&mut sent).unwrap();
        assert!(sent.is_empty());
    }

    #[test]
    fn what_is_no_answer_is_none() {
        for wrong in ["", "HTTP/1.0 200 OK", "HTTP/1.0 x\r\n\r\n", "SSH-2.0\r\n\r\n"] {
            assert!(parts(wrong.as_bytes()).is_none(), "{wrong:?}");
        }
        assert_eq!(parts(b"HTTP/1.0 404 Not Found\r\n\r\nx"), Some((404, &b"x"[..])));
        let silent = Engine::at(Path::new("/nonexistent/docker.sock")).info().unwrap_err();
        assert!(matches!(silent, EngineError::Silent { .. }));
    }
}
