//! What the kernel itself needs: the directories of one level, made, limited, filled, emptied and removed with nothing between.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::Fallible;

/// How often `cgroup.events` is read while an end is waited for. A notification comes at most every 10 ms.
const LOOK: Duration = Duration::from_micros(20);

/// Beyond what any end here takes.
const EMPTY_MAX: Duration = Duration::from_secs(60);

/// The limits that the benched daemon sets on a level, as its configuration has them.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub memory: u64,
    pub pids: u32,
}

/// A v2 directory and its v1 companions, where there are any.
#[derive(Debug, Clone)]
pub struct Level {
    pub v2: PathBuf,
    pub memory: Option<PathBuf>,
    pub pids: Option<PathBuf>,
}

impl Level {
    pub fn child(&self, name: &str) -> Self {
        let below = |path: &PathBuf| path.join(name);
        Self { v2: below(&self.v2), memory: self.memory.as_ref().map(below), pids: self.pids.as_ref().map(below) }
    }

    pub fn directories(&self) -> impl Iterator<Item = &PathBuf> {
        [self.memory.as_ref(), self.pids.as_ref(), Some(&self.v2)].into_iter().flatten()
    }

    fn is_pure(&self) -> bool {
        self.memory.is_none() && self.pids.is_none()
    }

    /// Makes it; its children can have the same controllers.
    pub fn make(&self, limits: Limits, inner: bool) -> Fallible<()> {
        for directory in self.directories() {
            std::fs::create_dir(directory).map_err(|error| format!("{}: {error}", directory.display()))?;
        }
        let memory = limits.memory.to_string();
        match &self.memory {
            Some(v1) => {
                write(&v1.join("memory.limit_in_bytes"), &memory)?;
                // Swap is limited to none, where the kernel accounts for it.
                let both = v1.join("memory.memsw.limit_in_bytes");
                if both.exists() {
                    write(&both, &memory)?;
                }
            }
            None if self.v2.join("memory.max").exists() => {
                write(&self.v2.join("memory.max"), &memory)?;
                let swap = self.v2.join("memory.swap.max");
                if swap.exists() {
                    write(&swap, "0")?;
                }
                if !inner {
                    write(&self.v2.join("memory.oom.group"), "1")?;
                }
            }
            None => {}
        }
        let pids = self.pids.as_ref().unwrap_or(&self.v2).join("pids.max");
        if pids.exists() {
            write(&pids, &limits.pids.to_string())?;
        }
        if inner && self.is_pure() {
            write(&self.v2.join("cgroup.subtree_control"), "+memory +pids")?;
        }
        Ok(())
    }

    pub fn remove(&self) -> Fallible<()> {
        for directory in self.directories() {
            std::fs::remove_dir(directory).map_err(|error| format!("{}: {error}", directory.display()))?;
        }
        Ok(())
    }

    /// A command that puts itself there before it executes its program.
    pub fn command(&self, program: &Path) -> Fallible<Command> {
        let files: Vec<File> = self
            .directories()
            .map(|directory| OpenOptions::new().write(true).open(directory.join("cgroup.procs")))
            .collect::<Result<_, _>>()?;
        let mut command = Command::new(program);
        let enter = move || files.iter().try_for_each(|mut file| file.write_all(b"0"));
        // SAFETY: between fork and exec it only calls write(2), on descriptors that were opened before.
        #[expect(unsafe_code, reason = "the kernel's own price is that of a child that enters its cgroup itself")]
        unsafe {
            command.pre_exec(enter);
        }
        Ok(command)
    }

    /// The number of processes in its v2 directory.
    pub fn processes(&self) -> usize {
        std::fs::read_to_string(self.v2.join("cgroup.procs")).map_or(0, |text| text.lines().count())
    }

    pub fn kill(&self) -> Fallible<()> {
        write(&self.v2.join("cgroup.kill"), "1")
    }
}

pub fn write(path: &Path, value: &str) -> Fallible<()> {
    let opened = OpenOptions::new().write(true).open(path);
    let written = opened.and_then(|mut file| file.write_all(value.as_bytes()));
    written.map_err(|error| format!("{} = {value}: {error}", path.display()).into())
}

/// The `cgroup.events` of a directory, open.
pub fn events(directory: &Path) -> Fallible<File> {
    let path = directory.join("cgroup.events");
    Ok(File::open(&path).map_err(|error| format!("{}: {error}", path.display()))?)
}

/// When the kernel said that nothing is in it any more.
pub fn emptied(events: &File) -> Fallible<Instant> {
    let start = Instant::now();
    let mut text = [0; 64];
    while start.elapsed() < EMPTY_MAX {
        match events.read_at(&mut text, 0) {
            Ok(read) if !text[..read].starts_with(b"populated 1") => return Ok(Instant::now()),
            Ok(_) => std::thread::sleep(LOOK),
            // It is removed already.
            Err(_) => return Ok(Instant::now()),
        }
    }
    Err("a cgroup was not empty within 60 s".into())
}
