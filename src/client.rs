//! The blocking client of the local socket: finds the daemon, speaks to it, and starts one where none is.
//!
//! No async runtime: the launcher uses it, and is gone a moment later.

use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use crate::naming::ON_DEMAND_UNIT;
use crate::wire::{self, Call, Fault, Inbox, OLDER, WireError};

/// Where the system daemon listens.
pub const SYSTEM_SOCKET: &str = "/run/pinfold/pinfold.sock";

/// How long a daemon may take to start.
const START_MAX: Duration = Duration::from_secs(20);

/// What `pinfold serve` exits with where its configuration is wrong (EX_CONFIG of sysexits(3)).
pub const EXIT_CONFIG: u8 = 78;

/// What its front half exits with where the installed unit does not start (EX_UNAVAILABLE).
pub const EXIT_UNIT: u8 = 69;

/// How long a launch may take.
pub const LAUNCH_MAX: Duration = Duration::from_secs(20);

/// How long a view may take.
pub const VIEW_MAX: Duration = Duration::from_secs(10);

/// What went wrong between us and the daemon.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error("no pinfold daemon listens at {}; the first `pinfold run` starts one, or `pinfold serve`", .0.display())]
    NoDaemon(PathBuf),
    /// The socket is not for us.
    #[error("may not speak to the daemon at {}: {}, or use a daemon of your own", .0.display(), way_in())]
    NotPermitted(PathBuf),
    /// The connection failed.
    #[error("cannot {doing} the daemon at {}", socket.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// With which daemon.
        socket: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// It hung up in the middle.
    #[error(
        "the daemon at {} hung up: it was stopping, or has no descriptor left for one more connection; try again, and see its log",
        .0.display()
    )]
    HungUp(PathBuf),
    /// Somebody else listens where this user's daemon, or root's, should.
    #[error("{} belongs to a process of uid {uid}, not to a daemon of this user or of root: remove it", socket.display())]
    Foreign {
        /// Where.
        socket: PathBuf,
        /// Whose it is.
        uid: u32,
    },
    /// It took too long.
    #[error("the daemon at {} did not answer within {} s", socket.display(), after.as_secs())]
    TooSlow {
        /// Which daemon.
        socket: PathBuf,
        /// How long we waited.
        after: Duration,
    },
    /// It does not speak our language.
    #[error("the daemon's answer was not understood: is it of another version?")]
    Wire(#[from] WireError),
    /// It said no.
    #[error("{}", fault_text(.0))]
    Fault(Fault),
    /// None could be started, because its configuration is wrong.
    #[error("no daemon could be started: {0}")]
    Misconfigured(String),
    /// None could be started, because the installed unit does not start.
    #[error("no daemon could be started: {0}")]
    UnitFailed(String),
    /// None could be started.
    #[error("no daemon could be started: {0}")]
    NotStarted(String),
    /// There is no directory for the socket.
    #[error("{} cannot be used for the socket: {why}", path.display())]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why not.
        why: String,
    },
}

fn fault_text(fault: &Fault) -> String {
    match fault {
        Fault::Refused { reason, remedy, .. } => format!("{reason}; {remedy}"),
        Fault::NotPermitted(reason) => reason.clone(),
        Fault::NotReloaded(why) => {
            format!("the configuration is not read anew, and what it said before still holds: {why}")
        }
        Fault::NoHistory(why) => format!("the history cannot be told: {why}"),
        Fault::NotContained(pid) => format!("no session of yours holds process {pid}"),
        Fault::MethodNotFound(name) => format!("the daemon knows no method {name}: {OLDER}"),
        Fault::InterfaceNotFound(name) => format!("the daemon knows no interface {name}"),
        Fault::InvalidParameter(what) => format!("the daemon refused a parameter: {what}"),
    }
}

/// What lets this user speak to the system's daemon.
pub fn way_in() -> String {
    if matches!(nix::unistd::Group::from_name("pinfold"), Ok(Some(_))) {
        return "join the group `pinfold`".to_owned();
    }
    let user = nix::unistd::User::from_uid(nix::unistd::geteuid()).ok().flatten();
    let user = user.map_or_else(|| "USER".to_owned(), |user| user.name);
    format!(
        "as root make the group `pinfold`, which is not there, and join it (groupadd --system pinfold && usermod -aG pinfold \
         {user}), then restart that daemon"
    )
}

/// A connection to a daemon.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    /// What was read beyond the reply before.
    inbox: Inbox,
    socket: PathBuf,
    /// There was a choice, and this is the daemon that was not taken.
    other: Option<Other>,
}

/// A daemon that is there and was not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Other {
    /// The system's, which would have been taken if this user might speak to it.
    NotPermitted(PathBuf),
    /// This user's own, beside the system's.
    Own(PathBuf),
}

impl Other {
    /// Where it listens.
    pub fn socket(&self) -> &Path {
        match self {
            Self::NotPermitted(socket) | Self::Own(socket) => socket,
        }
    }
}

impl Client {
    /// Connects to the daemon at a socket.
    pub fn connect(socket: &Path) -> Result<Self, ClientError> {
        match UnixStream::connect(socket) {
            // A launch is bounded on its way there, too.
            Ok(stream) if stream.set_write_timeout(Some(VIEW_MAX)).is_err() => {
                Err(ClientError::HungUp(socket.to_owned()))
            }
            Ok(stream) => Ok(Self { stream, inbox: Inbox::default(), socket: socket.to_owned(), other: None }),
            Err(error) => Err(match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => ClientError::NoDaemon(socket.to_owned()),
                io::ErrorKind::PermissionDenied => ClientError::NotPermitted(socket.to_owned()),
                _ => ClientError::Io { doing: "connect to", socket: socket.to_owned(), source: error },
            }),
        }
    }

    /// Whoever listens is given dups of the caller's stdin and stderr: at a place of our choice that is us, or root.
    fn of_root_or_this_user(self) -> Result<Self, ClientError> {
        let peer = nix::sys::socket::getsockopt(&self.stream, nix::sys::socket::sockopt::PeerCredentials);
        let uid = peer.map_or(u32::MAX, |peer| peer.uid());
        let ours = uid == 0 || uid == nix::unistd::geteuid().as_raw();
        if ours { Ok(self) } else { Err(ClientError::Foreign { socket: self.socket, uid }) }
    }

    /// Which daemon it is.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The daemon that was not taken, where there was a choice.
    pub fn other(&self) -> Option<&Other> {
        self.other.as_ref()
    }

    /// Asks and waits for the answer, at most `deadline`.
    pub fn call<T: DeserializeOwned>(
        &mut self,
        call: &Call,
        descriptors: &[BorrowedFd<'_>],
        deadline: Duration,
    ) -> Result<T, ClientError> {
        self.send(call, descriptors)?;
        let reply = self.receive(Some(deadline))?;
        wire::decode_reply(&reply)?.map_err(ClientError::Fault)
    }

    /// Asks, and gets answers until `each` has had enough or the daemon hangs up. Only the first has a deadline.
    pub fn follow<T: DeserializeOwned>(
        &mut self,
        call: &Call,
        mut each: impl FnMut(T) -> bool,
    ) -> Result<(), ClientError> {
        self.send(call, &[])?;
        let mut deadline = Some(VIEW_MAX);
        loop {
            let reply = self.receive(deadline.take())?;
            if !each(wire::decode_reply(&reply)?.map_err(ClientError::Fault)?) {
                return Ok(());
            }
        }
    }

    fn failed(&self, doing: &'static str) -> impl Fn(io::Error) -> ClientError {
        let socket = self.socket.clone();
        move |source| match source.kind() {
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => ClientError::HungUp(socket.clone()),
            _ => ClientError::Io { doing, socket: socket.clone(), source },
        }
    }

    fn send(&self, call: &Call, descriptors: &[BorrowedFd<'_>]) -> Result<(), ClientError> {
        let bytes = call.encode();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(wire::DESCRIPTORS_MAX))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(descriptors));
        }
        let sent = rustix::net::sendmsg(&self.stream, &[io::IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL)
            .map_err(|errno| self.failed("send to")(errno.into()))?;
        // The rest of a long message follows without descriptors.
        io::Write::write_all(&mut &self.stream, &bytes[sent..]).map_err(self.failed("send to"))
    }

    /// Waits for a reply, at most until the deadline if there is one.
    fn receive(&mut self, deadline: Option<Duration>) -> Result<Vec<u8>, ClientError> {
        let start = Instant::now();
        let mut bytes = [0u8; 16 << 10];
        let socket = self.socket.clone();
        let late = || ClientError::TooSlow { socket: socket.clone(), after: deadline.unwrap_or_default() };
        loop {
            if let Some(reply) = self.inbox.take() {
                return Ok(reply);
            }
            let left = |deadline: Duration| deadline.checked_sub(start.elapsed()).filter(|left| !left.is_zero());
            let left = deadline.map(|deadline| left(deadline).ok_or_else(late)).transpose()?;
            self.stream.set_read_timeout(left).map_err(self.failed("set a deadline for"))?;
            match (&self.stream).read(&mut bytes) {
                Ok(0) => return Err(ClientError::HungUp(self.socket.clone())),
                Ok(read) if self.inbox.pending() + read <= wire::REPLY_BYTES_MAX => self.inbox.push(&bytes[..read]),
                Ok(_) => return Err(WireError::Malformed("it is too long".into()).into()),
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    return Err(late());
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.failed("hear from")(error)),
            }
        }
    }
}

/// Connects to the daemon of the caller's choice, else to the system's where it may, else to the user's own. One that died
/// and left sessions is started anew: what lives is not to look as if it were not there.
pub fn find(chosen: Option<&Path>) -> Result<Client, ClientError> {
    find_by(chosen, |socket| match Client::connect(socket) {
        Err(ClientError::NoDaemon(_)) if left_sessions(socket) => start(socket),
        other => other,
    })
}

/// Connects as [`find`] does, and starts none: for whoever only looks.
pub fn find_running(chosen: Option<&Path>) -> Result<Client, ClientError> {
    find_by(chosen, Client::connect)
}

/// Whether a daemon that is gone left records of what it launched, in a directory that this user may read.
fn left_sessions(socket: &Path) -> bool {
    std::fs::read_dir(beside(socket, "d")).is_ok_and(|mut records| records.next().is_some())
}

/// Connects as [`find`] does, and starts a daemon for this user where none is.
pub fn find_or_start(chosen: Option<&Path>) -> Result<Client, ClientError> {
    find_by(chosen, |socket| match Client::connect(socket) {
        // Only root can start the system's daemon, and for root it is the user's own.
        Err(ClientError::NoDaemon(_)) if chosen.is_some() || user_socket().is_ok_and(|own| own == socket) => {
            start(socket)
        }
        other => other,
    })
}

fn find_by(
    chosen: Option<&Path>,
    connect: impl Fn(&Path) -> Result<Client, ClientError>,
) -> Result<Client, ClientError> {
    if let Some(socket) = chosen {
        return connect(socket);
    }
    let connect = |socket: &Path| connect(socket).and_then(Client::of_root_or_this_user);
    let system = Path::new(SYSTEM_SOCKET);
    match connect(system) {
        Err(ClientError::NoDaemon(_)) => connect(&user_socket()?),
        // There is one, and it is not for us: that is told, and if there is no other either it is the answer.
        Err(denied @ ClientError::NotPermitted(_)) => match connect(&user_socket()?) {
            Ok(client) => Ok(Client { other: Some(Other::NotPermitted(system.to_owned())), ..client }),
            Err(ClientError::NoDaemon(_)) => Err(denied),
            other => other,
        },
        Ok(client) => Ok(Client { other: own_beside(system), ..client }),
        other => other,
    }
}

/// This user's own daemon, where one runs beside the system's.
fn own_beside(system: &Path) -> Option<Other> {
    let own = user_socket().ok().filter(|own| own != system)?;
    let listens = Client::connect(&own).and_then(Client::of_root_or_this_user).is_ok();
    listens.then_some(Other::Own(own))
}

/// Where this user's own daemon listens. Root's own daemon is the system's.
///
/// A host gives its servers neither `XDG_RUNTIME_DIR` nor a bus address, so the directory is derived from the uid.
pub fn user_socket() -> Result<PathBuf, ClientError> {
    let uid = nix::unistd::geteuid();
    if uid.is_root() {
        return Ok(PathBuf::from(SYSTEM_SOCKET));
    }
    let owned = |path: &PathBuf| std::fs::metadata(path).is_ok_and(|meta| meta.is_dir() && meta.uid() == uid.as_raw());
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_absolute());
    let runtime = runtime.into_iter().chain([PathBuf::from(format!("/run/user/{uid}"))]).find(owned);
    let directory = match runtime {
        Some(runtime) => runtime.join("pinfold"),
        None => PathBuf::from(format!("/tmp/pinfold-{uid}")),
    };
    Ok(directory.join("pinfold.sock"))
}

/// Makes the directory of a socket where it is missing. A foreign one is not used: whoever owns it could answer for us.
pub fn prepare_directory(socket: &Path) -> Result<(), ClientError> {
    let directory = socket.parent().unwrap_or(Path::new("/"));
    let failed = |why: String| ClientError::Directory { path: directory.to_owned(), why };
    let root = nix::unistd::geteuid().is_root();
    match std::fs::DirBuilder::new().mode(if root { 0o755 } else { 0o700 }).create(directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed(error.to_string())),
        _ => {}
    }
    let meta = std::fs::symlink_metadata(directory).map_err(|error| failed(error.to_string()))?;
    if !meta.is_dir() || meta.uid() != nix::unistd::geteuid().as_raw() {
        return Err(failed("it is not a directory of this user".into()));
    }
    Ok(())
}

/// Starts a daemon for `socket`, unless somebody else does so at this moment.
fn start(socket: &Path) -> Result<Client, ClientError> {
    prepare_directory(socket)?;
    let deadline = Instant::now() + START_MAX;
    let lock = beside(socket, "start");
    let failed = |doing| move |source| ClientError::Io { doing, socket: socket.to_owned(), source };
    let file = std::fs::File::options().create(true).truncate(false).write(true).mode(0o600).open(&lock);
    let file = file.map_err(failed("lock the start of"))?;
    loop {
        // Whoever has the lock starts it; the others find it started.
        match Client::connect(socket) {
            Err(ClientError::NoDaemon(_)) => {}
            other => return other,
        }
        match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => break,
            Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(errno) => return Err(failed("lock the start of")(errno.into())),
        }
    }
    match Client::connect(socket) {
        Err(ClientError::NoDaemon(_)) => {}
        other => return other,
    }
    let spawned = spawn(socket, deadline);
    if matches!(spawned, Err(ClientError::UnitFailed(_) | ClientError::Misconfigured(_))) {
        // That a manager listens for it says nothing: whoever came there would wait in vain.
        return spawned.and(Err(ClientError::NoDaemon(socket.to_owned())));
    }
    match Client::connect(socket) {
        // Somebody else has started one meanwhile, with no launcher and no lock.
        Ok(client) => Ok(client),
        Err(error) => spawned.and(Err(error)),
    }
}

/// Runs `pinfold serve --on-demand`, which returns when the daemon is ready or has said why not.
fn spawn(socket: &Path, deadline: Instant) -> Result<(), ClientError> {
    let failed = |why: String| ClientError::NotStarted(why);
    let program = std::env::current_exe().map_err(|error| failed(error.to_string()))?;
    let mut command = std::process::Command::new(program);
    // The daemon works in the root directory.
    let absolute = |path: &Path| std::path::absolute(path).map_err(|error| failed(error.to_string()));
    command.args(["serve", "--on-demand", "--socket"]).arg(absolute(socket)?);
    for (variable, flag) in [("PINFOLD_ROOT", "--root"), ("PINFOLD_CONFIG", "--config")] {
        if let Some(path) = std::env::var_os(variable) {
            command.arg(flag).arg(absolute(Path::new(&path))?);
        }
    }
    if let Some(backend) = std::env::var_os("PINFOLD_BACKEND") {
        command.arg("--backend").arg(backend);
    }
    // Of the host's environment it gets what says where things are, and nothing that could be a secret.
    let kept = ["HOME", "PATH", "XDG_CONFIG_HOME", "XDG_RUNTIME_DIR", "XDG_STATE_HOME", "PINFOLD_LOG"];
    command.env_clear().envs(kept.into_iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
    command.stdin(std::process::Stdio::null()).stderr(std::process::Stdio::null()).stdout(std::process::Stdio::piped());
    let mut child = command.spawn().map_err(|error| failed(error.to_string()))?;
    let mut answer = String::new();
    let said = child.stdout.take().map(|stdout| read_line(stdout, deadline, &mut answer));
    if matches!(said, Some(Err(_))) {
        let _ = child.kill();
    }
    let status = child.wait().ok().and_then(|status| u8::try_from(status.code()?).ok());
    match said {
        Some(Ok(())) if status == Some(EXIT_CONFIG) => Err(ClientError::Misconfigured(answer)),
        Some(Ok(())) if status == Some(EXIT_UNIT) => Err(ClientError::UnitFailed(answer)),
        Some(Ok(())) if answer == "ready" => Ok(()),
        Some(Ok(())) if !answer.is_empty() => Err(failed(answer)),
        _ => Err(failed(format!("it did not say that it is ready; see {}", beside(socket, "log").display()))),
    }
}

/// Reads until a line is there, at most until the deadline; what came together with it is there as well.
pub fn read_line(from: impl AsFd, deadline: Instant, line: &mut String) -> io::Result<()> {
    let mut bytes = Vec::new();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = rustix::event::Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        let mut polled = [rustix::event::PollFd::new(&from, rustix::event::PollFlags::IN)];
        if rustix::event::poll(&mut polled, Some(&timeout))? == 0 {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let mut chunk = [0u8; 1024];
        let read = rustix::io::read(&from, &mut chunk)?;
        bytes.extend_from_slice(&chunk[..read]);
        if read == 0 || bytes.contains(&b'\n') || bytes.len() > 16 << 10 {
            line.push_str(String::from_utf8_lossy(&bytes).trim_end());
            return Ok(());
        }
    }
}

/// Where the history of the daemon at this socket is: where the state of the system, or of its user, is kept; that of any
/// other daemon is beside its socket.
pub fn history(socket: &Path) -> PathBuf {
    const NAME: &str = "pinfold/history.db";
    if socket == Path::new(SYSTEM_SOCKET) {
        return Path::new("/var/lib").join(NAME);
    }
    let state = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let state = state.or_else(|| Some(std::env::home_dir()?.join(".local/state")));
    match state.filter(|_| user_socket().is_ok_and(|usual| usual == socket)) {
        Some(state) => state.join(NAME),
        None => beside(socket, "history.db"),
    }
}

/// A file of the daemon beside its socket: `pinfold.sock.lock`, `.start`, `.log`, `.d`.
pub fn beside(socket: &Path, suffix: &str) -> PathBuf {
    let mut name = socket.file_name().unwrap_or_default().to_owned();
    name.push(".");
    name.push(suffix);
    socket.with_file_name(name)
}

/// The name, without its kind, of the unit that an on-demand daemon runs in. There is one daemon for one socket; the one
/// that everybody uses has the plain name.
pub fn on_demand_unit(socket: &Path) -> String {
    if user_socket().is_ok_and(|usual| usual == socket) {
        return ON_DEMAND_UNIT.to_owned();
    }
    let digest = Sha256::digest(socket.as_os_str().as_encoded_bytes());
    let tag: String = digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    format!("{ON_DEMAND_UNIT}-{tag}")
}
