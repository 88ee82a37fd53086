//! Bytes on the unix socket to driver messages and back: varlink, one task for each connection.
//!
//! The peer is who the kernel says it is; nothing a client sends names a path, a unit or a pid that is acted upon. Every
//! message has a bound, every read, answer and write a deadline, and the descriptors that come along are close-on-exec.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::Instant;

use super::accept;
use super::adopting;
use super::aside::Foreign;
use super::caller::{self, Stand};
use super::escapes;
use super::follow;
use super::hearing::receive;
use super::launching::LaunchRequest;
use super::message::{Message, Peer};
use super::places::{Place, Places};
use super::publish;
use crate::backend::Backend;
use crate::cgroup::{Ahead, Membership, has_exited};
use crate::chain::chain;
use crate::history::{self, History};
use crate::process;
use crate::realm::Realm;
use crate::session::SessionId;
use crate::snapshot::SessionView;
use crate::sys::crash;
use crate::wire::{
    self, Adopt, Adopted, Answer, Call, Description, EndReply, Fault, Inbox, Launch, Launched, ListReply, Located,
    Noted, ParkReply, Question, Relabel, Relabelled, ReloadReply, Rested, StatusReply, ThawReply,
};

/// How long a client may take for its first message, from its turn on.
const FIRST_MAX: Duration = Duration::from_secs(10);

/// How long it may take for each further one, from the reply to the message's last byte; and to read its reply.
pub(super) const SILENCE_MAX: Duration = Duration::from_secs(30);

/// Views that are read from the kernel at a time, so that they leave room for what ends sessions.
const VIEWS_MAX: usize = 8;

/// Questions to the history that are answered at a time: a disk that is slow holds up nobody who asks what lives.
const HISTORIES_MAX: usize = 2;

/// How long the driver may take to answer: beyond the longest end.
const ANSWER_MAX: Duration = Duration::from_secs(700);

/// What every connection needs.
#[derive(Debug)]
pub(super) struct Service {
    driver: mpsc::Sender<Message>,
    pub(super) backend: Arc<Backend>,
    description: Description,
    pub(super) places: Arc<Places>,
    views: Semaphore,
    histories: Semaphore,
    looks: escapes::Turn,
    history: PathBuf,
    ahead: Arc<Ahead>,
}

impl Service {
    pub(super) fn new(
        driver: mpsc::Sender<Message>,
        backend: Arc<Backend>,
        description: Description,
        history: PathBuf,
    ) -> Self {
        Self {
            ahead: Ahead::new(backend.layout().clone()),
            driver,
            backend,
            description,
            places: Arc::new(Places::among(accept::descriptors_max())),
            views: Semaphore::new(VIEWS_MAX),
            histories: Semaphore::new(HISTORIES_MAX),
            looks: escapes::Turn::default(),
            history,
        }
    }
}

/// Why a connection ended before the client closed it.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectionError {
    #[error("the socket failed: {0}")]
    Io(#[from] io::Error),
    #[error(transparent)]
    Wire(#[from] wire::WireError),
    #[error("a message is longer than {} bytes", wire::REQUEST_BYTES_MAX)]
    TooLong,
    #[error("the client was silent for too long")]
    Silent,
    #[error("the client hung up in the midst of a message")]
    Half,
    #[error("the daemon is stopping")]
    Stopping,
    #[error("uid {0} has too many connections open")]
    Crowd(u32),
    #[error("uid {0} has sent too many descriptors that are not closed yet")]
    Lent(u32),
}

/// How a connection came to its end.
enum Over {
    /// The client closed it, and all that it had sent has been read.
    Drained,
    /// Something may be left in it.
    Early,
}

/// Serves the connection when its user's turn comes.
pub(super) async fn converse(
    mut stream: UnixStream,
    (peer, pidfd): (Peer, Option<OwnedFd>),
    place: Place,
    service: &Service,
) {
    let served = async {
        let _turn = place.turn().await;
        connection(&mut stream, (peer, pidfd.as_ref()), &place, service).await
    };
    match served.await {
        Ok(Over::Drained) => return,
        Ok(Over::Early) => {}
        Err(error) => tracing::debug!(uid = peer.uid, pid = peer.pid, %error, "connection closed"),
    }
    accept::let_go(stream, Some(place));
}

async fn connection(
    stream: &mut UnixStream,
    (peer, pidfd): (Peer, Option<&OwnedFd>),
    place: &Place,
    service: &Service,
) -> Result<Over, ConnectionError> {
    let mut deadline = Instant::now() + FIRST_MAX;
    let mut inbox = Inbox::default();
    let mut descriptors = Vec::new();
    let mut surplus_told = false;
    loop {
        while inbox.whole().is_none() {
            if place.has_lent_too_many() {
                return Err(ConnectionError::Lent(peer.uid));
            }
            let read = tokio::time::timeout_at(deadline, receive(stream, &mut inbox, &mut descriptors, place));
            let heard = read.await.map_err(|_| ConnectionError::Silent)??;
            if heard.surplus && !std::mem::replace(&mut surplus_told, true) {
                tracing::debug!(
                    uid = peer.uid,
                    pid = peer.pid,
                    "more descriptors came along than a message needs: closed"
                );
            }
            match heard.bytes {
                0 if inbox.pending() == 0 => return Ok(Over::Drained),
                0 => return Err(ConnectionError::Half),
                _ => {}
            }
            if inbox.whole().is_none() && inbox.pending() > wire::REQUEST_BYTES_MAX {
                return Err(ConnectionError::TooLong);
            }
        }
        let Some(message) = inbox.take() else { continue };
        let sent = std::mem::take(&mut descriptors);
        let call = Call::decode(&message)?;
        if let Ok(Call::Events(watch)) = &call
            && watch.follow
        {
            follow::follow(service, peer, watch, stream).await?;
            return Ok(Over::Early);
        }
        let changes_something = matches!(call, Ok(Call::Launch(_) | Call::Adopt(_) | Call::End(_)));
        // Until it is read, so that nobody has more made than is read.
        let _answers = if matches!(
            call,
            Ok(Call::List | Call::Status(_) | Call::Locate(_) | Call::Events(_) | Call::History(_))
        ) {
            let turn = tokio::time::timeout(ANSWER_MAX, place.answer()).await;
            Some(turn.map_err(|_| ConnectionError::Silent)?)
        } else {
            None
        };
        let _histories = if matches!(call, Ok(Call::History(_))) { Some(place.history().await) } else { None };
        let reply = match call {
            Ok(call) => answer(service, peer, pidfd, call, sent).await?,
            Err(fault) => fault.encode(),
        };
        let written = tokio::time::timeout(SILENCE_MAX, stream.write_all(&reply));
        written.await.map_err(|_| ConnectionError::Silent)??;
        if changes_something {
            crash::step("a reply was sent");
        }
        deadline = Instant::now() + SILENCE_MAX;
    }
}

async fn answer(
    service: &Service,
    peer: Peer,
    pidfd: Option<&OwnedFd>,
    call: Call,
    descriptors: Vec<Foreign>,
) -> Result<Vec<u8>, ConnectionError> {
    Ok(match call {
        Call::Launch(wish) => reply(launch(service, peer, pidfd, *wish, descriptors).await?),
        Call::Adopt(wish) => reply(adopt(service, peer, pidfd, *wish, descriptors).await?),
        Call::End(wish) => reply(end(service, peer, pidfd, wish).await?),
        Call::Reload(wish) => reply(reload(service, peer, pidfd, wish).await?),
        Call::Park(wish) => reply(park(service, peer, pidfd, wish).await?),
        Call::Thaw(wish) => reply(thaw(service, peer, pidfd, wish).await?),
        Call::Label(wish) => reply(label(service, peer, pidfd, wish).await?),
        Call::Status(id) => wire::encode_reply(&status(service, peer, &id).await?),
        Call::List => wire::encode_reply(&ListReply { sessions: list(service, peer).await? }),
        // A connection may outlive who opened it, and its number be another's by then.
        Call::NotExecuted(_) if pidfd.is_some_and(|pidfd| has_exited(pidfd.as_fd())) => {
            Fault::NotContained(peer.pid).encode()
        }
        Call::NotExecuted(errno) => {
            let noted = ask(service, |reply| Message::NotExecuted(peer, errno, reply)).await?;
            reply(noted.then_some(Noted {}).ok_or(Fault::NotContained(peer.pid)))
        }
        Call::Locate(pid) => reply(locate(service, peer, pid).await?),
        Call::Events(watch) => wire::encode_reply(&follow::recent(service, peer, &watch).await?),
        Call::History(question) => reply(ended(service, peer, question).await?),
        Call::Describe => wire::encode_reply(&describe(service, peer).await?),
        Call::GetInfo => wire::encode_reply(&serde_json::json!({
            "vendor": "pinfold",
            "product": "pinfold",
            "version": service.description.version,
            "url": "",
            "interfaces": ["org.varlink.service", wire::INTERFACE],
        })),
        Call::GetInterfaceDescription(name) if name == wire::INTERFACE => {
            wire::encode_reply(&serde_json::json!({ "description": wire::DESCRIPTION }))
        }
        Call::GetInterfaceDescription(name) => Fault::InterfaceNotFound(name).encode(),
    })
}

fn reply<T: serde::Serialize>(outcome: Result<T, Fault>) -> Vec<u8> {
    match outcome {
        Ok(done) => wire::encode_reply(&done),
        Err(fault) => fault.encode(),
    }
}

/// Sends a message to the driver and waits for its answer.
pub(super) async fn ask<T>(
    service: &Service,
    message: impl FnOnce(oneshot::Sender<T>) -> Message,
) -> Result<T, ConnectionError> {
    let (sender, answer) = oneshot::channel();
    service.driver.send(message(sender)).await.map_err(|_| ConnectionError::Stopping)?;
    let answered = tokio::time::timeout(ANSWER_MAX, answer).await;
    answered.map_err(|_| ConnectionError::Silent)?.map_err(|_| ConnectionError::Stopping)
}

async fn launch(
    service: &Service,
    peer: Peer,
    pidfd: Option<&OwnedFd>,
    wish: Launch,
    descriptors: Vec<Foreign>,
) -> Result<Result<Launched, Fault>, ConnectionError> {
    service.ahead.begin();
    let mut descriptors: Vec<Option<Foreign>> = descriptors.into_iter().map(Some).collect();
    let mut take = |index: Option<usize>| index.and_then(|index| descriptors.get_mut(index)?.take());
    let (stdin, stderr, own) = (take(wish.stdin), take(wish.stderr), take(wish.pidfd));
    let refused = |reason: &str| {
        Ok(Err(Fault::Refused {
            reason: reason.to_owned(),
            remedy: "launch it with `pinfold run`".to_owned(),
            uncontained: false,
        }))
    };
    let backend = &service.backend;
    // Of the two, the kernel's own answer counts; the launcher's pidfd must be of the process that the kernel names.
    let is_peer = |fd: &OwnedFd| process::pid_of(fd.as_fd()).is_ok_and(|pid| pid == peer.pid);
    let held = pidfd.and_then(|pidfd| pidfd.try_clone().ok()).filter(is_peer);
    let Some(held) = held.or_else(|| own.filter(|own| is_peer(own)).map(Foreign::known)) else {
        return refused("the launcher cannot be held by a pidfd");
    };
    let Ok(launcher) = process::identify(peer.pid) else { return refused("the launcher is gone") };
    let (ancestors, environment) = (process::ancestors(peer.pid), process::environment(peer.pid));
    let Some(Stand { container, is_below, inside }) = Stand::of(backend, peer) else {
        return refused("the launcher was moved out of its container");
    };
    let asked_at = std::time::Instant::now();
    let request = LaunchRequest {
        peer,
        wish,
        launcher,
        pidfd: held,
        stdin,
        stderr,
        ancestors,
        environment,
        container,
        is_below,
        inside,
        asked_at,
        moving: None,
    };
    ask(service, |reply| Message::Launch(Box::new(request), reply)).await
}

/// Contains what runs already, as far as the caller may have that done.
async fn adopt(
    service: &Service,
    peer: Peer,
    pidfd: Option<&OwnedFd>,
    wish: Adopt,
    mut descriptors: Vec<Foreign>,
) -> Result<Result<Adopted, Fault>, ConnectionError> {
    if let Err(fault) = caller::on_the_host(peer, "processes are adopted") {
        return Ok(Err(fault));
    }
    let inside = match caller::inside(&service.backend, peer, pidfd) {
        Ok(inside) => inside,
        Err(fault) => return Ok(Err(fault)),
    };
    let sent = wish.pidfd.filter(|index| *index < descriptors.len()).map(|index| descriptors.swap_remove(index));
    // What is no pidfd is none of that process either.
    let sent = sent.filter(|fd| process::pid_of(fd.as_fd()).is_ok()).map(Foreign::known);
    let (pid, backend) = (wish.pid, service.backend.clone());
    let look = move || adopting::look(&backend, peer, inside, wish, sent);
    // It walks through all of /proc, as a view of what escaped does: one of few at a time.
    let looked = {
        let _one_of_few = service.views.acquire().await.expect("the semaphore is never closed");
        tokio::task::spawn_blocking(look).await.map_err(|_| ConnectionError::Stopping)?
    };
    let request = match looked {
        Ok(request) => request,
        Err(refusal) => return Ok(Err(adopting::fault(refusal))),
    };
    let launched = ask(service, |reply| Message::Adopt(Box::new(request), reply)).await?;
    Ok(launched.map(|launched| adopting::told(pid, launched)))
}

async fn end(
    service: &Service,
    peer: Peer,
    pidfd: Option<&OwnedFd>,
    wish: wire::End,
) -> Result<Result<EndReply, Fault>, ConnectionError> {
    match caller::inside(&service.backend, peer, pidfd) {
        Ok(inside) => ask(service, |reply| Message::End { peer, inside, wish, reply }).await,
        Err(fault) => Ok(Err(fault)),
    }
}

async fn park(
    service: &Service,
    peer: Peer,
    pidfd: Option<&OwnedFd>,
    wish: Rested,
) -> Result<Result<ParkReply, Fault>, ConnectionError> {
    match caller::inside(&service.backend, peer, pidfd) {
        Ok(inside) => ask(service, |reply| Message::Park { peer, inside, wish, reply }).await,
        Err(fault) => Ok(Err(fault)),
    }
}

async fn thaw(
    service: &Service,
    peer: Peer,
    pidfd: Option<&OwnedFd>,
    wish: Rested,
) -> Result<Result<ThawReply, Fault>, ConnectionError> {
    match caller::inside(&service.backend, peer, pidfd) {
        Ok(inside) => ask(service, |reply| Message::Thaw { peer, inside, wish, reply }).await,
        Err(fault) => Ok(Err(fault)),
    }
}

async fn label(
    service: &Service,
    peer: Peer,
    pidfd: Option<&OwnedFd>,
    wish: Relabel,
) -> Result<Result<Relabelled, Fault>, ConnectionError> {
    let inside = match caller::inside(&service.backend, peer, pidfd) {
        Ok(inside) => inside,
        Err(fault) => return Ok(Err(fault)),
    };
    let holder = wish
        .pid
        .filter(|_| peer.realm == Realm::Host)
        .and_then(|pid| service.backend.locate(&Membership::of(pid).ok()?));
    ask(service, |reply| Message::Label { peer, inside, holder, wish, reply }).await
}

/// Shows one session, and looks for what escaped from it.
async fn status(service: &Service, peer: Peer, id: &SessionId) -> Result<StatusReply, ConnectionError> {
    let mut entries = ask(service, |reply| Message::List { peer, reply }).await?;
    entries.retain(|entry| entry.id == *id || entry.key.as_str() == id.as_str());
    let wanted: Vec<_> = entries.iter().map(publish::Entry::wanted).collect();
    let mut reply = StatusReply { sessions: read_views(service, entries).await?, complete: true };
    for (session, wanted) in reply.sessions.iter_mut().zip(wanted) {
        let found = escapes::look(&service.looks, wanted, service.backend.clone()).await;
        reply.complete &= found.complete;
        publish::add_escapees(session, &found);
    }
    tell_escapees(service, &reply.sessions).await?;
    Ok(reply)
}

/// What was seen outside its leaf is told in the log, too.
async fn tell_escapees(service: &Service, sessions: &[SessionView]) -> Result<(), ConnectionError> {
    for (number, escapees) in sessions.iter().flat_map(publish::escapees) {
        let told = Message::Escaped(number, escapees);
        service.driver.send(told).await.map_err(|_| ConnectionError::Stopping)?;
    }
    Ok(())
}

/// The file is the operator's, and so is the word that it counts from now on; a server's is not.
async fn reload(
    service: &Service,
    peer: Peer,
    pidfd: Option<&OwnedFd>,
    wish: wire::Reload,
) -> Result<Result<ReloadReply, Fault>, ConnectionError> {
    if let Err(fault) = caller::on_the_host(peer, "the configuration is reloaded") {
        return Ok(Err(fault));
    }
    if peer.uid != 0 && peer.uid != service.description.uid {
        let whose = format!("only root and uid {} may reload this daemon's configuration", service.description.uid);
        return Ok(Err(Fault::NotPermitted(whose)));
    }
    match caller::inside(&service.backend, peer, pidfd) {
        Ok(None) => ask(service, |reply| Message::Reload { force: wish.force, reply: Some(reply) }).await,
        Ok(Some(_)) => {
            Ok(Err(Fault::NotPermitted("the configuration cannot be reloaded from inside a session".into())))
        }
        Err(fault) => Ok(Err(fault)),
    }
}

async fn list(service: &Service, peer: Peer) -> Result<Vec<SessionView>, ConnectionError> {
    let entries = ask(service, |reply| Message::List { peer, reply }).await?;
    let sessions = read_views(service, entries).await?;
    tell_escapees(service, &sessions).await?;
    Ok(sessions)
}

/// Reads what the kernel tells of these sessions.
async fn read_views(service: &Service, entries: Vec<publish::Entry>) -> Result<Vec<SessionView>, ConnectionError> {
    let _one_of_few = service.views.acquire().await.expect("the semaphore is never closed");
    let views = tokio::task::spawn_blocking(move || entries.into_iter().map(publish::view).collect());
    views.await.map_err(|_| ConnectionError::Stopping)
}

async fn locate(service: &Service, peer: Peer, pid: i32) -> Result<Result<Located, Fault>, ConnectionError> {
    // In a container the number means another process.
    let known = Some(pid).filter(|_| peer.realm == Realm::Host).and_then(|pid| Membership::of(pid).ok());
    let caller = known.and_then(|place| service.backend.locate(&place));
    let Some(caller) = caller else { return Ok(Err(Fault::NotContained(pid))) };
    let mut entries = ask(service, |reply| Message::List { peer, reply }).await?;
    entries.retain(|entry| entry.key == caller.key);
    let Some(session) = read_views(service, entries).await?.pop() else { return Ok(Err(Fault::NotContained(pid))) };
    Ok(Ok(Located { session, leaf: caller.leaf.as_str().to_owned() }))
}

/// What ended. It is read from the database by a connection of its own, so it waits for nobody who writes.
async fn ended(service: &Service, peer: Peer, question: Question) -> Result<Result<Answer, Fault>, ConnectionError> {
    if let Err(fault) = caller::on_the_host(peer, "the history is told") {
        return Ok(Err(fault));
    }
    let turn = tokio::time::timeout(history::ANSWER_MAX, service.histories.acquire()).await;
    let Ok(_one_of_few) = turn else { return Ok(Err(Fault::NoHistory("others are asking; try again".to_owned()))) };
    let path = service.history.clone();
    let read = tokio::task::spawn_blocking(move || History::ask(&path, &question, peer.uid)).await;
    let answer = read.map_err(|_| ConnectionError::Stopping)?;
    Ok(answer.map_err(|error| Fault::NoHistory(chain(&error))))
}

async fn describe(service: &Service, peer: Peer) -> Result<Description, ConnectionError> {
    let (counts, config) = ask(service, Message::Describe).await?;
    Ok(Description {
        config: config.map(|path| path.display().to_string()),
        notes: service.backend.notes().into_iter().chain(caller::note(peer)).collect(),
        launches: counts.launches,
        refusals: counts.refusals,
        uncontained: counts.uncontained,
        delayed: counts.delayed,
        storms: counts.storms,
        ..service.description.clone()
    })
}
