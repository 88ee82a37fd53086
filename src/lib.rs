//! pinfold keeps every MCP server that an AI agent starts inside a cgroup that belongs to the agent's session, bounds what
//! it may use, and ends all of it at once: wrappers, servers, and the grandchildren that left the process group.
//!
//! This page is the map. A module uses lower floors only; `tests/floors.rs` fails the build's tests where one climbs.
//!
//! | floor | rooms | what they are |
//! |---|---|---|
//! | 7 | [`cli`] | words from the user; exit statuses |
//! | 6 | [`daemon`], [`launch`], [`tui`] | long-lived tasks around one table; the exec shim; the live screen |
//! | 5 | [`backend`], [`client`], [`records`], [`history`], [`metrics`] | one face for the backends; the socket's client; what a restart must know; what ended, kept; what Prometheus is told |
//! | 4 | [`cgroup`], [`systemd`], [`config`], [`engine`], [`process`], [`rewrite`] | hands: each touches one outside thing |
//! | 3 | [`sys`], [`wire`] | raw system calls, the only `unsafe`; requests and replies |
//! | 2 | [`snapshot`], [`occurrence`], [`strays`] | all that may be seen of a session from outside; what happens to it; what runs without pinfold |
//! | 1 | [`policy`], [`lifecycle`], [`naming`], [`hostfile`] | rules: no I/O, no clock, no locks, no logging |
//! | 0 | [`session`], [`label`], [`limits`], [`outcome`], [`argv`], [`confine`], [`container`], [`realm`], [`timespan`], [`timestamp`], [`chain`] | words: values that cannot be wrong once built |
//!
//! # One session, from launch to removal
//!
//! A host spawns `pinfold run -- npx -y some-server`. [`launch`] connects through [`client`] (which starts a daemon where
//! none is), sends a [`wire::Launch`] with dups of its stdin and stderr, and waits.
//!
//! In the daemon, `daemon/socket.rs` asks the kernel who is calling, and `daemon/launching.rs` asks [`policy`]: which host
//! and which session this is, and under what limits it may run. `daemon/placing.rs` goes on with what is granted: a
//! [`records::Record`] is written, then [`backend`] makes the leaf, sets the limits and reads them back, moves the launcher
//! in, and proves from `/proc/PID/cgroup` that it is there. The launcher proves the same of itself, and execs: from here on
//! the host speaks to its server directly.
//!
//! `daemon/watch.rs` waits for the kernel: the pidfds of the server's first process and of its owner, a hang-up of the held
//! stdin, the leaf's event files. `daemon/driver.rs` feeds each fact to [`lifecycle::State::step`], the one place where a
//! session's death is decided, and carries out what it answers: SIGTERM to all of the leaf, `cgroup.kill` when the grace is
//! over, again until `populated 0`, last readings, removal. `daemon/ending.rs` tells the reason: on the server's stderr,
//! in the log, and to whoever waits in `pinfold end`. `daemon/chronicle.rs` is where all that happens passes, on its way to the
//! journal and to `pinfold events`.
//!
//! What does nothing lives on and gives its memory back: `daemon/idling.rs` reads, [`lifecycle::Rest`] says what is due, and
//! `daemon/parking.rs` has it done, and undone before anything else happens to that server.
//!
//! What runs already is placed with its whole tree by `daemon/adopting.rs` and `backend/kin.rs`, where somebody orders it
//! (`pinfold adopt`), and is a server like any other from then on.
//!
//! The daemon may die at any moment: servers live on, and `daemon/recover.rs` of the next one adopts them.

pub mod argv;
pub mod backend;
pub mod cgroup;
pub mod chain;
pub mod cli;
pub mod client;
pub mod config;
pub mod confine;
pub mod container;
pub mod daemon;
pub mod engine;
pub mod history;
pub mod hostfile;
pub mod label;
pub mod launch;
pub mod lifecycle;
pub mod limits;
pub mod metrics;
pub mod naming;
pub mod occurrence;
pub mod outcome;
pub mod policy;
pub mod process;
pub mod realm;
pub mod records;
pub mod rewrite;
pub mod session;
pub mod snapshot;
pub mod strays;
pub mod sys;
pub mod systemd;
pub mod timespan;
pub mod timestamp;
pub mod tui;
pub mod wire;
