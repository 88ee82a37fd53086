//! Files of the kernel's, read whole: with as few calls as they take.

use std::io;
use std::os::fd::AsFd;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

/// What most of them fit in.
const ROOM: usize = 4 << 10;

/// Appends what is in it, but for what is beyond `most` bytes.
pub fn read(path: &str, most: usize, bytes: &mut Vec<u8>) -> io::Result<()> {
    let fd = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    read_from(fd, most, bytes)
}

/// The same of one that is open.
pub fn read_from(fd: impl AsFd, most: usize, bytes: &mut Vec<u8>) -> io::Result<()> {
    let most = bytes.len().saturating_add(most);
    bytes.reserve(ROOM);
    while bytes.len() < most {
        if bytes.len() == bytes.capacity() {
            bytes.reserve(bytes.capacity());
        }
        match rustix::io::read(&fd, rustix::buffer::spare_capacity(bytes)) {
            Ok(0) => break,
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    bytes.truncate(most);
    Ok(())
}

/// Its text; what is no UTF-8 is replaced.
pub fn of(path: &str, most: usize) -> io::Result<String> {
    let mut bytes = Vec::new();
    read(path, most, &mut bytes)?;
    Ok(String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_whole_or_as_far_as_was_asked() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let (path, text) = (file.path().to_str().unwrap(), "0123456789".repeat(1000));
        std::fs::write(path, &text).unwrap();
        assert_eq!(of(path, 1 << 20).unwrap(), text);
        let mut bytes = b"before ".to_vec();
        read(path, 7, &mut bytes).unwrap();
        assert_eq!(bytes, b"before 0123456");
        assert_eq!(of("/no such file", 1).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
