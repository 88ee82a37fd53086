//! How a server is confined that no daemon placed. Confinement needs no daemon, so what the configuration says of it holds
//! all the same; and where that cannot be known, the server does not run.

use std::io::ErrorKind;
use std::path::Path;

use super::LaunchOptions;
use crate::argv;
use crate::config::{Config, ConfigError};
use crate::confine::Confine;
use crate::policy::{self, Refusal, SessionNaming, Settings};
use crate::process;

/// Why it is not known how it is to be confined.
#[derive(Debug, thiserror::Error)]
pub(super) enum AloneError {
    #[error("without a daemon the launcher itself has to know how it is to be confined")]
    Config(#[from] ConfigError),
    #[error("without a daemon the launcher itself has to know how it is to be confined: {0}")]
    Session(String),
    #[error("without a daemon the launcher itself has to know how it is to be confined")]
    Unknown(#[from] std::io::Error),
}

/// How strictly the configuration wants this launch confined, as far as it is here to be read: where there are two files,
/// the stricter one counts, since either daemon could have answered.
pub(super) fn confine(options: &LaunchOptions) -> Result<Confine, AloneError> {
    options.configurations.iter().try_fold(Confine::No, |strictest, path| Ok(strictest.max(by(path, options)?)))
}

fn by(path: &Path, options: &LaunchOptions) -> Result<Confine, AloneError> {
    let settings = match Config::load(path) {
        Ok(config) => config.settings,
        Err(ConfigError::Read { source, .. }) if source.kind() == ErrorKind::NotFound => return Ok(Confine::No),
        Err(error) => return Err(error.into()),
    };
    wanted(&settings, options)
}

/// What the daemon would decide of it, from the same facts.
fn wanted(settings: &Settings, options: &LaunchOptions) -> Result<Confine, AloneError> {
    let launcher = process::identify(std::process::id() as i32)?;
    let ancestors = process::ancestors(launcher.pid);
    let facts: Vec<_> = ancestors.iter().map(|ancestor| ancestor.facts.clone()).collect();
    let recognised = policy::recognise_host(settings, &facts);
    let owner = recognised.as_ref().map_or(ancestors.first(), |(_, index)| ancestors.get(*index));
    let host = options.host.clone().or(recognised.as_ref().map(|(name, _)| name.clone()));
    let caller = policy::Caller {
        explicit: options.session.as_ref(),
        environment: &process::environment(launcher.pid),
        host: host.as_ref(),
        owner: owner.map_or(launcher, |owner| owner.id),
        launcher,
        inside: None,
    };
    let session = match policy::name_session(settings, &caller) {
        SessionNaming::Named(name) => name.id,
        SessionNaming::Refused(Refusal { reason, remedy }) => {
            return Err(AloneError::Session(format!("{reason}; {remedy}")));
        }
    };
    let words: Vec<String> = options.command.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let server = options.server.clone().unwrap_or_else(|| argv::server_name(&words));
    Ok(policy::confined(settings, host.as_ref(), &session, &server))
}
