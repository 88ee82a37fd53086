//! What a file has beside its bytes, and another one is given: owner, group, mode, and extended attributes with the access
//! control list among them.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};

use rustix::fs::XattrFlags;
use rustix::io::Errno;

/// The most bytes of one attribute, and of all their names (xattr(7)).
const BYTES_MAX: usize = 64 << 10;

/// The kernel makes these from the file's bytes, or gives them to it where it comes to be.
const NOT_OURS: &[&CStr] = &[c"security.ima", c"security.evm"];

/// What a file has beside its bytes.
#[derive(Debug)]
pub(super) struct Attributes {
    uid: u32,
    gid: u32,
    mode: u32,
    extended: BTreeMap<CString, Vec<u8>>,
}

/// What of it another file could not be given.
#[derive(Debug, thiserror::Error)]
pub enum NotGiven {
    /// Its owner is somebody else.
    #[error("it belongs to uid {uid} and group {gid}, and what would take its place cannot be given to them")]
    Owner {
        /// The owner.
        uid: u32,
        /// The group.
        gid: u32,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// Its mode.
    #[error("its mode cannot be given to what would take its place")]
    Mode(#[source] io::Error),
    /// An extended attribute.
    #[error("its attribute {name} cannot be given to what would take its place")]
    Extended {
        /// Which.
        name: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

impl Attributes {
    pub(super) fn of(file: &File) -> io::Result<Self> {
        let found = file.metadata()?;
        let (uid, gid, mode) = (found.uid(), found.gid(), found.mode() & 0o7777);
        Ok(Self { uid, gid, mode, extended: extended(file)? })
    }

    /// Gives all of it to a file that this process has made.
    pub(super) fn give(&self, file: &File) -> Result<(), NotGiven> {
        let has = file.metadata().map_err(NotGiven::Mode)?;
        if (has.uid(), has.gid()) != (self.uid, self.gid) {
            let refused = |source| NotGiven::Owner { uid: self.uid, gid: self.gid, source };
            fchown(file, Some(self.uid), Some(self.gid)).map_err(refused)?;
        }
        let has = extended(file).map_err(NotGiven::Mode)?;
        let refused = |name: &CString| {
            let name = name.to_string_lossy().into_owned();
            move |source: Errno| NotGiven::Extended { name, source: source.into() }
        };
        for (name, value) in self.extended.iter().filter(|(name, value)| has.get(*name) != Some(value)) {
            rustix::fs::fsetxattr(file, name, value, XattrFlags::empty()).map_err(refused(name))?;
        }
        // What a directory gives to all that comes to be in it, and this file had not.
        for name in has.keys().filter(|name| is_inherited(name) && !self.extended.contains_key(*name)) {
            rustix::fs::fremovexattr(file, name).map_err(refused(name))?;
        }
        // Last: a change of the owner clears bits of the mode, and an access control list sets some.
        file.set_permissions(std::fs::Permissions::from_mode(self.mode)).map_err(NotGiven::Mode)
    }
}

/// The rights of others: a label of a security module is given by the system, and taken away by nobody.
fn is_inherited(name: &CStr) -> bool {
    name.to_bytes().starts_with(b"system.posix_acl_")
}

/// All extended attributes; none where the filesystem has no such thing.
fn extended(file: &File) -> io::Result<BTreeMap<CString, Vec<u8>>> {
    let mut names = vec![0; BYTES_MAX];
    let length = match rustix::fs::flistxattr(file.as_fd(), &mut names[..]) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => return Ok(BTreeMap::new()),
        listed => listed?,
    };
    let mut found = BTreeMap::new();
    let mut value = vec![0; BYTES_MAX];
    for name in names[..length].split_inclusive(|byte| *byte == 0) {
        let Ok(name) = CStr::from_bytes_with_nul(name) else { continue };
        if NOT_OURS.contains(&name) {
            continue;
        }
        match rustix::fs::fgetxattr(file.as_fd(), name, &mut value[..]) {
            Ok(length) => {
                found.insert(name.to_owned(), value[..length].to_vec());
            }
            // Removed since, or shown by name only.
            Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(found)
}
