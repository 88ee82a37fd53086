//! Where a host's files are on this machine, for one user who stands in one directory.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use crate::hostfile::hosts::{Base, HostFiles};

/// What the places of files follow from.
#[derive(Debug, Clone)]
pub struct Surroundings {
    /// The home directory, where there is one.
    pub home: Option<PathBuf>,
    /// The directory of configurations.
    pub config: Option<PathBuf>,
    /// The working directory.
    pub here: PathBuf,
    /// The environment.
    pub variable: fn(&str) -> Option<OsString>,
}

impl Surroundings {
    /// Those of this process.
    pub fn own() -> Self {
        let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let home = std::env::home_dir().filter(|home| home.is_absolute());
        let config = variable("XDG_CONFIG_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
        let config = config.or_else(|| Some(home.as_ref()?.join(".config")));
        Self { home, config, here: std::env::current_dir().unwrap_or_default(), variable }
    }

    /// A path from a variable: hosts take a leading `~` and a relative path for what a shell does.
    fn path(&self, value: OsString) -> PathBuf {
        let path = PathBuf::from(value);
        match (path.strip_prefix("~"), &self.home) {
            (Ok(rest), Some(home)) => home.join(rest),
            _ => self.here.join(path),
        }
    }
}

/// The places of a host's files, whether they are there or not. A variable that names the file goes before one that names
/// its directory, and both before what is below the home directory: of these the host reads one.
pub fn places(host: &HostFiles, around: &Surroundings) -> Vec<PathBuf> {
    let named = |wanted: fn(Base) -> Option<&'static str>| {
        host.files.iter().any(|(base, _)| wanted(*base).is_some_and(|name| (around.variable)(name).is_some()))
    };
    let by_file = named(|base| if let Base::File(name) = base { Some(name) } else { None });
    let by_directory = named(|base| if let Base::Directory(name) = base { Some(name) } else { None });
    let place = |(base, path): &(Base, &str)| match *base {
        Base::File(name) => Some(around.path((around.variable)(name)?)),
        Base::Directory(name) if !by_file => Some(around.path((around.variable)(name)?).join(path)),
        Base::Home if !by_file && !by_directory => Some(around.home.as_ref()?.join(path)),
        Base::Directory(_) | Base::Home => None,
        Base::Config => Some(around.config.as_ref()?.join(path)),
        Base::Here => Some(around.here.join(path)),
    };
    host.files.iter().filter_map(place).collect()
}

/// Those of a host's files that are there, each once by whatever names. One that cannot be looked at is among them: whoever
/// reads it is told why.
pub fn files(host: &HostFiles, around: &Surroundings) -> Vec<PathBuf> {
    let mut seen = BTreeSet::new();
    let is_there = |path: &Path| match std::fs::metadata(path) {
        Ok(found) => found.is_file(),
        Err(error) => !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory),
    };
    let places = places(host, around).into_iter().filter(|path| is_there(path));
    places.filter(|path| seen.insert(std::fs::canonicalize(path).unwrap_or_else(|_| path.clone()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hostfile::hosts::{HOSTS, host};

    fn around(directory: &Path, variable: fn(&str) -> Option<OsString>) -> Surroundings {
        let home = directory.join("home");
        Surroundings { config: Some(home.join(".config")), home: Some(home), here: directory.join("project"), variable }
    }

    fn write(path: &Path) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, "{}").unwrap();
    }

    #[test]
    fn the_files_of_every_host_are_found_where_it_reads_them() {
        for host in HOSTS {
            let directory = tempfile::tempdir().unwrap();
            let around = around(directory.path(), |_| None);
            assert!(files(host, &around).is_empty());
            let places = places(host, &around);
            places.iter().for_each(|place| write(place));
            assert!(!places.is_empty());
            assert_eq!(files(host, &around), places, "{}", host.name);
        }
    }

    #[test]
    fn a_variable_that_is_set_leads_away_from_the_home_directory() {
        let told = |name, variable| {
            let places = places(host(name).unwrap(), &around(Path::new("/x"), variable));
            places.into_iter().map(|place| place.display().to_string()).collect::<Vec<_>>()
        };
        assert_eq!(told("openclaw", |_| None), ["/x/home/.openclaw/openclaw.json"]);
        let directory = |name: &str| (name == "OPENCLAW_STATE_DIR").then(|| "~/state".into());
        assert_eq!(told("openclaw", directory), ["/x/home/state/openclaw.json"]);
        let both = |name: &str| match name {
            "OPENCLAW_CONFIG_PATH" => Some("own.json5".into()),
            "OPENCLAW_STATE_DIR" => Some("/state".into()),
            _ => None,
        };
        assert_eq!(told("openclaw", both), ["/x/project/own.json5"]);
        let codex = |name: &str| (name == "CODEX_HOME").then(|| "/codex".into());
        assert_eq!(told("codex", codex), ["/codex/config.toml", "/x/project/.codex/config.toml"]);
    }

    #[test]
    fn a_file_of_two_names_is_one_and_a_directory_is_none() {
        let directory = tempfile::tempdir().unwrap();
        let mut around = around(directory.path(), |_| None);
        around.here = around.home.clone().unwrap();
        let cursor = around.here.join(".cursor/mcp.json");
        write(&cursor);
        assert_eq!(files(host("cursor").unwrap(), &around), [cursor.as_path()]);
        std::fs::remove_file(&cursor).unwrap();
        std::fs::create_dir(&cursor).unwrap();
        assert!(files(host("cursor").unwrap(), &around).is_empty());
    }
}
