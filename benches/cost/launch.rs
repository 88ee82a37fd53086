//! A launch of `true` until it has exited: by us, by hand, and by what one would take instead.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::Fallible;
use crate::figures::Table;
use crate::machine::{Machine, SERVER, SESSION, Server, timed};
use crate::progress::Progress;
use crate::raw::Level;
use crate::rounds::{Contender, Interrupt, PAUSE, back_to_back, paced};

const RAW_FIRST: &str = "the kernel's own: mkdir, limits, cgroup.procs, exec";
const RAW_SECOND: &str = "the same for a further server of a session";
const RAW_PROGRAM: &str = "the same as a first, by a program that is started for it";
const FIRST: &str = "pinfold run, first of a session";
const SECOND: &str = "pinfold run, a further one";
const PLAIN: &str = "plain exec";

/// One launch through the raw sequence, in a new session or a new leaf of one: by a child of ours, or by this program.
pub fn raw(session: &Level, is_first: bool, enter: Option<&Path>) -> Fallible<Duration> {
    let leaf = session.child("leaf");
    let start = Instant::now();
    if is_first {
        session.make(SESSION, true)?;
    }
    leaf.make(SERVER, false)?;
    let mut command = match enter {
        None => leaf.command(Path::new("true"))?,
        Some(enter) => {
            let mut command = Command::new(enter);
            command.args(leaf.directories().map(|directory| directory.join("cgroup.procs"))).args(["--", "true"]);
            command
        }
    };
    let status = command.stdin(Stdio::null()).status()?;
    let took = start.elapsed();
    leaf.remove()?;
    if is_first {
        session.remove()?;
    }
    if status.success() { Ok(took) } else { Err("the raw sequence failed".into()) }
}

pub fn tables(
    machine: &Machine,
    rounds: usize,
    said: (&Progress, &Interrupt),
    missing: &mut Vec<String>,
) -> Fallible<Vec<Table>> {
    let others = others(&wanted(machine)?, missing);
    let shared = machine.name();
    let held = machine.raw.child("held");
    held.make(SESSION, true)?;
    // A server that stays keeps the session of the further ones.
    let stays = Server::start(machine.run(&shared).arg(&machine.sleeper))?;
    let fresh = machine.raw.child("fresh");
    let mut contenders = vec![
        Contender::new(PLAIN, || timed(&mut Command::new("true"))),
        Contender::new(RAW_FIRST, || raw(&fresh, true, None)),
        Contender::new(RAW_PROGRAM, || raw(&fresh, true, Some(&machine.enter))),
        Contender::new(RAW_SECOND, || raw(&held, false, None)),
        Contender::new(FIRST, || timed(machine.run(&machine.name()).arg("true"))),
        Contender::new(SECOND, || timed(machine.run(&shared).arg("true"))),
    ];
    contenders.extend(others.iter().map(Other::contender));
    let tables = [
        ("Launch, 130 ms apart", paced(("launch, paced", PAUSE), &mut contenders, rounds, said)?),
        ("Launch, back to back", back_to_back("launch, back to back", &mut contenders, rounds, said)?),
    ];
    drop(contenders);
    machine.end(Some(&shared))?;
    Server::reap([stays])?;
    held.remove()?;
    let mut made: Vec<Table> = Vec::new();
    for (title, rows) in tables {
        // A further launch is compared with a further one.
        let mut table = Table::of(title, "ms", RAW_FIRST, &rows);
        let of_second = Table::of(title, "ms", RAW_SECOND, &rows);
        for (row, other) in table.rows.iter_mut().zip(of_second.rows) {
            if row.label == SECOND || row.label == RAW_SECOND {
                (row.ratio, row.against) = (other.ratio, RAW_SECOND.to_owned());
            }
        }
        made.push(table);
    }
    Ok(made)
}

/// What one would take instead.
#[derive(Debug, Clone)]
pub struct Other {
    label: &'static str,
    words: Vec<String>,
}

impl Other {
    fn new(label: &'static str, words: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self { label, words: words.into_iter().map(Into::into).collect() }
    }

    /// A process in namespaces of its own, and no limits.
    pub fn bwrap() -> Self {
        let words = "bwrap --ro-bind / / --dev /dev --proc /proc --unshare-pid --die-with-parent true";
        Self::new("bwrap --unshare-pid, no limits", words.split(' '))
    }

    /// A container by an OCI runtime, which makes its cgroup by this manager and there.
    pub fn crun(directory: &Path, manager: &str, cgroup: &str) -> Fallible<Self> {
        let bundle = bundle(directory, cgroup)?.display().to_string();
        let manager = format!("--cgroup-manager={manager}");
        Ok(Self::new(
            "crun run, a container until it is removed",
            ["crun", &manager, "run", "--bundle", &bundle, "bench"],
        ))
    }

    /// Launches by it.
    pub fn contender(&self) -> Contender<'_> {
        Contender::new(self.label, || timed(Command::new(&self.words[0]).args(&self.words[1..])))
    }
}

/// What there is on any machine.
fn wanted(machine: &Machine) -> Fallible<Vec<Other>> {
    let group = |path: &PathBuf, mount: &str| format!("{}/held-by-cgexec", path.display()).replacen(mount, "", 1);
    let mut wanted = vec![Other::bwrap()];
    // cgexec(1) only enters what somebody else made and limited.
    if let Some(memory) = &machine.raw.memory {
        let directory = memory.join("held-by-cgexec");
        std::fs::create_dir_all(&directory)?;
        let pids = machine.raw.pids.as_ref().map(|pids| pids.join("held-by-cgexec"));
        pids.as_ref().map_or(Ok(()), std::fs::create_dir_all)?;
        let mount = memory.ancestors().find(|path| path.file_name().is_some_and(|name| name == "memory"));
        let mount = mount.map(|mount| mount.display().to_string()).unwrap_or_default();
        let path = format!("memory:{}", group(memory, &mount));
        wanted.push(Other::new("cgexec into a cgroup that is there", ["cgexec", "-g", &path, "true"]));
    }
    wanted.push(Other::crun(&machine.path("bundle"), "cgroupfs", &format!("/{}-crun", machine.name()))?);
    Ok(wanted)
}

/// Those of them that are here and work here: what does not is told as missing.
pub fn others(wanted: &[Other], missing: &mut Vec<String>) -> Vec<Other> {
    let mut works = |other: &&Other| {
        let why = match Command::new(&other.words[0]).args(&other.words[1..]).stdin(Stdio::null()).output() {
            Ok(output) if output.status.success() => return true,
            Ok(output) => String::from_utf8_lossy(&output.stderr).lines().next().unwrap_or("failed").trim().to_owned(),
            Err(error) => error.to_string(),
        };
        missing.push(format!("{}: {why}", other.label));
        false
    };
    wanted.iter().filter(|other| works(other)).cloned().collect()
}

/// The least that an OCI runtime takes: the machine's own programs, and namespaces of its own.
fn bundle(bundle: &Path, cgroup: &str) -> Fallible<PathBuf> {
    let root = bundle.join("rootfs");
    for directory in ["usr", "proc", "dev"] {
        std::fs::create_dir_all(root.join(directory))?;
    }
    // Where programs and libraries are looked for, on a machine that has all of them in /usr.
    for name in ["bin", "sbin", "lib", "lib64"] {
        let link = root.join(name);
        if let Ok(target) = std::fs::read_link(Path::new("/").join(name))
            && !link.is_symlink()
        {
            std::os::unix::fs::symlink(target, link)?;
        }
    }
    let (user, group) = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
    let kinds = ["pid", "ipc", "uts", "mount"].into_iter().chain((user != 0).then_some("user"));
    let namespaces: Vec<_> = kinds.map(|kind| serde_json::json!({ "type": kind })).collect();
    let mapping = |id: u32| match user {
        0 => serde_json::json!([]),
        _ => serde_json::json!([{ "containerID": 0, "hostID": id, "size": 1 }]),
    };
    let config = serde_json::json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false, "cwd": "/", "args": ["true"],
            "user": { "uid": 0, "gid": 0 }, "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"],
        },
        "root": { "path": "rootfs" },
        "mounts": [
            { "destination": "/proc", "type": "proc", "source": "proc" },
            { "destination": "/usr", "type": "bind", "source": "/usr", "options": ["rbind", "ro"] },
        ],
        "linux": {
            "namespaces": namespaces,
            "uidMappings": mapping(user),
            "gidMappings": mapping(group),
            "cgroupsPath": cgroup,
            "resources": { "memory": { "limit": SERVER.memory }, "pids": { "limit": SERVER.pids } },
        },
    });
    std::fs::write(bundle.join("config.json"), config.to_string())?;
    Ok(bundle.to_owned())
}
