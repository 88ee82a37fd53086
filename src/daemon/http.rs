//! Metrics, health and the page, over HTTP: a few small answers, each made when it is asked for.
//!
//! It never holds up the driver: connections, scrapes and all waits have bounds, and a client that is slow or silent gives
//! way to those that come.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use hyper::body::Incoming;
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus::Registry;
use tokio::sync::{Mutex, mpsc, oneshot, watch};

use super::crowd::{Crowd, Noted, Progress};
use super::listener::{Listener, Stream, Usual};
use super::message::Message;
use super::scrape::{Facts, Memory};
use crate::config::Metrics;
use crate::metrics::{self, Family, Format, Own, Page, Picture};
use crate::wire::Description;

/// How long the head of a request may take, also of the next one on the same connection.
const HEAD_MAX: Duration = Duration::from_secs(20);

/// How long a connection may last, whatever goes on in it.
const CONNECTION_MAX: Duration = Duration::from_secs(60);

/// The longest head of a request, in bytes and in lines.
const HEAD_BYTES_MAX: usize = 16 << 10;
const HEADERS_MAX: usize = 64;

/// How long a scrape waits for those before it, for the driver and for the kernel: each is less than Prometheus waits for.
const TURN_MAX: Duration = Duration::from_secs(5);

/// How soon a driver that is well answers.
const WELL: Duration = Duration::from_secs(2);

/// How soon an address that is taken is tried again.
const AGAIN: Duration = Duration::from_secs(30);

/// What every answer is made from.
#[derive(Debug)]
pub(super) struct Exporter {
    driver: mpsc::Sender<Message>,
    description: Description,
    counts: Registry,
    settings: watch::Receiver<Metrics>,
    started: SystemTime,
    /// One picture is taken at a time.
    memory: Arc<Mutex<Memory>>,
}

/// Why there is no answer.
#[derive(Debug, Clone, Copy, thiserror::Error)]
enum Unavailable {
    #[error("others are being answered")]
    Crowd,
    #[error("the daemon does not answer in time")]
    Driver,
    #[error("the kernel does not answer in time")]
    Kernel,
}

impl Exporter {
    pub(super) fn new(
        driver: mpsc::Sender<Message>,
        description: Description,
        counts: Registry,
        settings: watch::Receiver<Metrics>,
    ) -> Arc<Self> {
        let started = SystemTime::now();
        Arc::new(Self { driver, description, counts, settings, started, memory: Arc::default() })
    }

    /// Listens where the configuration says so, also when it comes to say something else.
    pub(super) async fn serve(self: Arc<Self>, usual: Usual) {
        let mut settings = self.settings.clone();
        let (mut told, mut crowd) = (None, Crowd::default());
        loop {
            let wanted = usual.or(&settings.borrow_and_update().listen);
            let Some(place) = wanted else {
                match settings.changed().await {
                    Ok(()) => continue,
                    Err(_) => return,
                }
            };
            match Listener::bind(&place).await {
                Ok(listener) => {
                    tracing::info!(at = %place, "metrics are told");
                    told = None;
                    let listening = self.accept(&listener, &mut crowd);
                    tokio::select! {
                        () = listening => {}
                        changed = said_otherwise(&mut settings, |said| usual.or(&said.listen).as_ref() != Some(&place)) => {
                            if !changed {
                                return;
                            }
                        }
                    }
                }
                Err(error) => {
                    if told.as_ref() != Some(&place) {
                        tracing::warn!(
                            at = %place,
                            %error,
                            "cannot listen for metrics; trying again every {}s: give `listen` of [metrics] another \
                             address, or \"off\"",
                            AGAIN.as_secs()
                        );
                        told = Some(place);
                    }
                    tokio::select! {
                        () = tokio::time::sleep(AGAIN) => {}
                        changed = settings.changed() => if changed.is_err() { return },
                    }
                }
            }
        }
    }

    async fn accept(self: &Arc<Self>, listener: &Listener, crowd: &mut Crowd) {
        loop {
            match listener.accept().await {
                Ok((stream, whose)) => {
                    let (exporter, for_browsers) = (self.clone(), listener.is_for_browsers());
                    crowd.add(whose, |progress| connection(exporter, stream, for_browsers, progress));
                }
                // Out of descriptors, or the client is gone already: neither is the end of the service.
                Err(error) => {
                    tracing::debug!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    async fn answer(&self, request: Request<Incoming>, for_browsers: bool) -> Response<String> {
        let settings = self.settings.borrow().clone();
        if for_browsers && !is_for_us(&request, &settings.hosts) {
            return plain(
                StatusCode::FORBIDDEN,
                "this machine is not called so; add the name to hosts under [metrics]\n".to_owned(),
            );
        }
        if request.method() != Method::GET && request.method() != Method::HEAD {
            let answer = plain(StatusCode::METHOD_NOT_ALLOWED, "GET and HEAD are all that is answered\n".to_owned());
            return with(answer, header::ALLOW, "GET, HEAD");
        }
        let answered = match request.uri().path() {
            "/metrics" => self.metrics(&request, &settings).await,
            "/" => self.page(&settings).await,
            "/healthz" => self.health().await.map(|()| plain(StatusCode::OK, "ok\n".to_owned())),
            _ => Ok(plain(StatusCode::NOT_FOUND, "there is /, /metrics and /healthz\n".to_owned())),
        };
        answered.unwrap_or_else(|why| plain(StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")))
    }

    async fn health(&self) -> Result<(), Unavailable> {
        tokio::time::timeout(WELL, self.ask(Message::Describe)).await.map_err(|_| Unavailable::Driver)?.map(drop)
    }

    async fn ask<T>(&self, message: impl FnOnce(oneshot::Sender<T>) -> Message) -> Result<T, Unavailable> {
        let (sender, answer) = oneshot::channel();
        self.driver.send(message(sender)).await.map_err(|_| Unavailable::Driver)?;
        answer.await.map_err(|_| Unavailable::Driver)
    }

    async fn picture(&self, sessions_max: usize) -> Result<(Picture, Facts), Unavailable> {
        let turn = tokio::time::timeout(TURN_MAX, self.memory.clone().lock_owned());
        let mut memory = turn.await.map_err(|_| Unavailable::Crowd)?;
        let asked = tokio::time::timeout(TURN_MAX, self.ask(Message::Facts));
        let mut facts = asked.await.map_err(|_| Unavailable::Driver)??;
        // Where the kernel holds it up, those who come find that there is no turn for them.
        let read = tokio::task::spawn_blocking(move || (memory.picture(&mut facts, sessions_max), facts));
        let read = tokio::time::timeout(TURN_MAX, read).await.map_err(|_| Unavailable::Kernel)?;
        read.map_err(|_| Unavailable::Kernel)
    }

    async fn metrics(&self, request: &Request<Incoming>, settings: &Metrics) -> Result<Response<String>, Unavailable> {
        let began = Instant::now();
        let (picture, facts) = self.picture(settings.sessions_max).await?;
        let own = Own::read(self.started);
        let told = (&own, began.elapsed().as_secs_f64());
        let mut families = metrics::families(&picture, &self.description, facts.pairs, told, settings.session_ids);
        families.extend(self.counts.gather().iter().map(Family::of));
        families.sort_by(|one, other| one.name().cmp(other.name()));
        let accepted = request.headers().get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
        let format = Format::accepted(&accepted.collect::<Vec<_>>().join(","));
        Ok(with(Response::new(format.encode(&families)), header::CONTENT_TYPE, format.content_type()))
    }

    async fn page(&self, settings: &Metrics) -> Result<Response<String>, Unavailable> {
        let (picture, facts) = self.picture(settings.sessions_max).await?;
        let read = |path: &'static str| tokio::task::spawn_blocking(move || std::fs::read_to_string(path));
        let (nonce, machine) = (read("/proc/sys/kernel/random/uuid"), read("/proc/sys/kernel/hostname"));
        let nonce = nonce.await.ok().and_then(Result::ok).ok_or(Unavailable::Kernel)?;
        let machine = machine.await.ok().and_then(Result::ok).ok_or(Unavailable::Kernel)?;
        let nonce = nonce.trim();
        let ends: Vec<_> = facts.ended.iter().map(AsRef::as_ref).collect();
        let html = metrics::page(&Page {
            picture: &picture,
            description: &self.description,
            machine: machine.trim(),
            ends: &ends,
            now: SystemTime::now(),
            nonce,
            with_ids: settings.session_ids,
        });
        let answer = with(Response::new(html), header::CONTENT_TYPE, "text/html; charset=utf-8");
        Ok(with(answer, header::CONTENT_SECURITY_POLICY, &metrics::policy(nonce)))
    }
}

/// Waits until the settings say something else; false when nobody can say so any more.
async fn said_otherwise(settings: &mut watch::Receiver<Metrics>, other: impl Fn(&Metrics) -> bool) -> bool {
    settings.wait_for(other).await.is_ok()
}

/// Whether the request is for this machine: by its Host header, or by the absolute address that stands above it (RFC 9112).
fn is_for_us(request: &Request<Incoming>, names: &[String]) -> bool {
    let mut headers = request.headers().get_all(header::HOST).iter();
    let (first, second) = (headers.next(), headers.next());
    let first = first.and_then(|host| host.to_str().ok());
    let named = request.uri().authority().map(|authority| authority.as_str()).into_iter().chain(first);
    second.is_none() && first.is_some() && named.into_iter().all(|host| metrics::is_ours(host, names))
}

fn plain(status: StatusCode, text: String) -> Response<String> {
    let mut answer = Response::new(text);
    *answer.status_mut() = status;
    with(answer, header::CONTENT_TYPE, "text/plain; charset=utf-8")
}

fn with(mut answer: Response<String>, name: HeaderName, value: &str) -> Response<String> {
    if let Ok(value) = HeaderValue::from_str(value) {
        answer.headers_mut().insert(name, value);
    }
    answer
}

/// What holds for every answer: it is of this moment, of the type that it says, and for this origin alone.
fn sealed(answer: Response<String>) -> Response<String> {
    let answer = with(answer, header::CACHE_CONTROL, "no-store");
    let answer = with(answer, header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    let answer = with(answer, header::REFERRER_POLICY, "no-referrer");
    with(answer, HeaderName::from_static("cross-origin-resource-policy"), "same-origin")
}

async fn connection(exporter: Arc<Exporter>, stream: Box<dyn Stream>, for_browsers: bool, progress: Arc<Progress>) {
    let service = service_fn(|request| {
        let (exporter, progress) = (exporter.clone(), progress.clone());
        async move {
            progress.begin();
            let answer = exporter.answer(request, for_browsers).await;
            progress.send();
            Ok::<_, Infallible>(sealed(answer))
        }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_MAX);
    builder.max_buf_size(HEAD_BYTES_MAX).max_headers(HEADERS_MAX);
    let served = builder.serve_connection(TokioIo::new(Noted(stream, progress.clone())), service);
    if let Ok(Err(error)) = tokio::time::timeout(CONNECTION_MAX, served).await {
        tracing::debug!(%error, "a connection for metrics closed");
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::super::crowd::OF_ONE_MAX;
    use super::*;

    fn exporter(driver: mpsc::Sender<Message>) -> (Arc<Exporter>, watch::Sender<Metrics>) {
        let said = watch::Sender::new(Metrics::default());
        let made = Exporter::new(driver, Description::default(), Registry::new(), said.subscribe());
        (made, said)
    }

    #[tokio::test]
    async fn a_daemon_whose_driver_does_not_answer_is_not_well_and_says_so_in_time() {
        let (outbox, _nobody_reads_it) = mpsc::channel(1);
        let (exporter, _said) = exporter(outbox);
        let (mut client, stream) = tokio::net::UnixStream::pair().unwrap();
        tokio::spawn(connection(exporter, Box::new(stream), false, Arc::default()));
        client.write_all(b"GET /healthz HTTP/1.1\r\nHost: any\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        tokio::time::timeout(WELL * 10, client.read_to_string(&mut answer)).await.unwrap().unwrap();
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        assert!(answer.ends_with("\r\n\r\nthe daemon does not answer in time\n"), "{answer}");
    }

    #[tokio::test]
    async fn where_too_many_are_open_the_oldest_that_waits_gives_way_and_one_that_is_answered_does_not() {
        let (outbox, _nobody_reads_it) = mpsc::channel(OF_ONE_MAX * 2);
        let (exporter, _said) = exporter(outbox);
        let mut crowd = Crowd::default();
        let mut clients = Vec::new();
        for number in 0..=OF_ONE_MAX {
            let (mut client, stream) = tokio::net::UnixStream::pair().unwrap();
            let exporter = exporter.clone();
            crowd.add(None, |progress| connection(exporter, Box::new(stream), false, progress));
            if number == 0 {
                client.write_all(b"GET /healthz HTTP/1.1\r\nHost: any\r\n\r\n").await.unwrap();
                let progress = crowd.progress(0).clone();
                while Crowd::is_idle(&progress) {
                    tokio::task::yield_now().await;
                }
            }
            clients.push(client);
        }
        assert_eq!(clients[1].read(&mut [0]).await.unwrap(), 0, "it gave way");
        let mut answer = [0; 12];
        clients[0].read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 503");
    }
}
