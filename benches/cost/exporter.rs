//! What one would have follow the memory of servers without us: process-exporter, told to tell processes apart by their
//! cgroups. It reads every process of the machine at each scrape.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::Fallible;
use crate::machine::{Machine, descriptors, resident};

pub const NAME: &str = "process-exporter";

/// Debian calls it so.
const PROGRAM: &str = "prometheus-process-exporter";

/// A group of its own for each cgroup: what comes nearest to a server's metrics.
const CONFIG: &str = "process_names: [{ name: \"{{.Cgroups}}\", cmdline: [\".+\"] }]\n";

/// How long it may take to listen, or to answer.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// One that runs, on loopback.
pub struct Exporter {
    child: Child,
    address: SocketAddr,
}

impl Exporter {
    /// Starts it in its cheapest form: neither threads nor smaps are read.
    pub fn start(machine: &Machine) -> Fallible<Self> {
        let config = machine.path("process-exporter.yml");
        std::fs::write(&config, CONFIG)?;
        // Whoever is quick may take the port before it does: then it does not start, and that is told.
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let mut command = Command::new(PROGRAM);
        command.args(["-threads=false", "-gather-smaps=false", "-config.path"]).arg(config);
        command.arg(format!("-web.listen-address={address}"));
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let mut exporter = Self { child: child.map_err(|error| format!("{PROGRAM}: {error}"))?, address };
        let start = Instant::now();
        while exporter.scrape().is_err() {
            if exporter.child.try_wait()?.is_some() || start.elapsed() > WAIT_MAX {
                return Err(format!("{PROGRAM} does not answer at {address}").into());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(exporter)
    }

    /// One scrape, as Prometheus does it.
    pub fn scrape(&self) -> Fallible<Duration> {
        let start = Instant::now();
        let mut stream = TcpStream::connect_timeout(&self.address, WAIT_MAX)?;
        stream.set_read_timeout(Some(WAIT_MAX))?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        let took = start.elapsed();
        if answer.starts_with(b"HTTP/1.1 200") { Ok(took) } else { Err(format!("{PROGRAM} did not answer").into()) }
    }

    /// What it has in memory, in bytes, and how many descriptors.
    pub fn holds(&self) -> Fallible<(u64, usize)> {
        Ok((resident(self.child.id()), descriptors(self.child.id())?))
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
