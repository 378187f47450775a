//! Memory that the agent writes a large sample into and the worker reads it from.
//!
//! The agent makes it and seals its size, so that the worker is never struck by SIGBUS and can't make it eat memory; the
//! agent never reads from it, so a worker that writes here only deceives itself. One request is open at a time, so it
//! holds one sample. Where the system has no such memory, samples travel inside frames.

use std::fs::File;
use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::ptr::NonNull;

/// Size of a window, and of the largest sample. Memory is only spent on what was written.
pub(super) const WINDOW_BYTES: usize = super::frame::PAYLOAD_BYTES_MAX;
/// Samples up to this size travel inside the frame, which costs less than touching the window.
pub(super) const INLINE_BYTES_MAX: usize = 64 << 10;
/// What one large sample may leave allocated in the window.
const KEPT_BYTES_MAX: usize = 1 << 20;

/// The agent's side.
#[derive(Debug)]
pub(super) struct Window(File);

/// The worker's side: a mapping of [`WINDOW_BYTES`] that only reads.
#[derive(Debug)]
pub(super) struct View(NonNull<u8>);

impl Window {
    /// Makes one.
    #[cfg(target_os = "linux")]
    pub(super) fn create() -> io::Result<Self> {
        use std::os::fd::{AsRawFd as _, FromRawFd as _};
        // SAFETY: the name is a C string that outlives the call.
        let fd = unsafe { libc::memfd_create(c"sedge-sample".as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is new and nobody else's.
        let file = File::from(unsafe { OwnedFd::from_raw_fd(fd) });
        file.set_len(WINDOW_BYTES as u64)?;
        let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
        // SAFETY: fcntl takes a number and touches no memory of ours.
        if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self(file))
    }

    /// Makes one.
    #[cfg(not(target_os = "linux"))]
    pub(super) fn create() -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Another descriptor of it, for the worker to inherit.
    pub(super) fn descriptor(&self) -> io::Result<OwnedFd> {
        Ok(self.0.try_clone()?.into())
    }

    /// Puts a sample in.
    pub(super) fn write(&self, sample: &[u8]) -> io::Result<()> {
        std::os::unix::fs::FileExt::write_all_at(&self.0, sample, 0)
    }

    /// Gives back what a very large sample has taken.
    pub(super) fn release(&self, bytes: usize) {
        #[cfg(target_os = "linux")]
        if bytes > KEPT_BYTES_MAX {
            use std::os::fd::AsRawFd as _;
            let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
            // SAFETY: the call concerns a file of ours and touches no memory that is mapped here. If it fails, the
            // memory stays allocated.
            unsafe { libc::fallocate(self.0.as_raw_fd(), mode, 0, WINDOW_BYTES as libc::off_t) };
        }
        #[cfg(not(target_os = "linux"))]
        let _ = bytes;
    }
}

impl View {
    /// Maps the window that was inherited as this descriptor.
    #[cfg(target_os = "linux")]
    pub(super) fn inherited(fd: RawFd) -> io::Result<Self> {
        // SAFETY: fcntl reads a number and touches no memory of ours.
        let seals = unsafe { libc::fcntl(fd, libc::F_GET_SEALS) };
        if seals < 0 {
            return Err(io::Error::last_os_error());
        }
        if seals & libc::F_SEAL_SHRINK == 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it could shrink"));
        }
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory of ours.
        let address =
            unsafe { libc::mmap(std::ptr::null_mut(), WINDOW_BYTES, libc::PROT_READ, libc::MAP_SHARED, fd, 0) };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        NonNull::new(address.cast()).map(Self).ok_or_else(|| io::ErrorKind::Other.into())
    }

    /// Maps the window that was inherited as this descriptor.
    #[cfg(not(target_os = "linux"))]
    pub(super) fn inherited(_fd: RawFd) -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Copies a sample out; `None` when it would reach past the end.
    pub(super) fn read(&self, bytes: usize) -> Option<Vec<u8>> {
        if bytes > WINDOW_BYTES {
            return None;
        }
        let mut sample: Vec<u8> = Vec::with_capacity(bytes);
        // SAFETY: the mapping has `WINDOW_BYTES`, sealed against shrinking, and the vector room for `bytes` of them; the
        // agent writes only between two requests, and a copy of torn bytes would still be bytes.
        unsafe {
            std::ptr::copy_nonoverlapping(self.0.as_ptr(), sample.as_mut_ptr(), bytes);
            sample.set_len(bytes);
        }
        Some(sample)
    }
}

impl Drop for View {
    fn drop(&mut self) {
        // SAFETY: mapped with this address and length, and nothing refers to it any more.
        unsafe { libc::munmap(self.0.as_ptr().cast(), WINDOW_BYTES) };
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd as _;

    #[test]
    fn what_the_agent_writes_the_worker_reads() {
        let ours = Window::create().expect("memfd");
        let fd = ours.descriptor().expect("descriptor");
        let theirs = View::inherited(fd.as_raw_fd()).expect("mapped");
        let sample: Vec<u8> = (0..2 * KEPT_BYTES_MAX).map(|i| (i % 251) as u8).collect();
        ours.write(&sample).expect("fits");
        assert_eq!(theirs.read(sample.len()), Some(sample.clone()));
        ours.release(sample.len());
        assert_eq!(theirs.read(3), Some(vec![0; 3]));
        assert!(ours.write(&vec![0; WINDOW_BYTES + 1]).is_err());
        assert_eq!(theirs.read(WINDOW_BYTES + 1), None);
    }

    #[test]
    fn nobody_can_resize_it() {
        let ours = Window::create().expect("memfd");
        let file = File::from(ours.descriptor().expect("descriptor"));
        assert!(file.set_len(1).is_err() && file.set_len(2 * WINDOW_BYTES as u64).is_err());
    }

    #[test]
    fn memory_that_could_shrink_is_refused() {
        let file = tempfile::tempfile().expect("file");
        assert!(View::inherited(file.as_raw_fd()).is_err());
    }
}
