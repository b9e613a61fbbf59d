//! Files that are small enough to be in memory are read with a limit; files are written so that they are there whole or
//! not at all. Unstable: public for the program, which writes its files as the library does.
#![forbid(unsafe_code)]

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorKind, Result};

/// Opens a regular file, and gives its length.
///
/// # Errors
/// If it is none, or cannot be opened.
pub(crate) fn open(path: &Path) -> Result<(File, u64)> {
    let io = |error: io::Error| Error::io(path, &error);
    let metadata = fs::metadata(path).map_err(io)?;
    // Checked before the file is opened, because opening a pipe waits for its other end.
    if !metadata.is_file() {
        let found = if metadata.is_dir() { "a directory" } else { "a special file" };
        return Err(Error::mismatch("file type", found, "a regular file").in_file(path));
    }
    Ok((File::open(path).map_err(io)?, metadata.len()))
}

/// Reads the next `length` bytes, or what there is of them.
///
/// # Errors
/// If there is no memory for them, or they cannot be read.
pub(crate) fn read(file: &mut File, path: &Path, length: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let room = usize::try_from(length).ok().filter(|&length| bytes.try_reserve_exact(length).is_ok());
    if room.is_none() {
        let detail = format!("{length} bytes, for which there is no memory");
        return Err(Error::new(ErrorKind::Resource, detail).in_file(path));
    }
    file.take(length).read_to_end(&mut bytes).map_err(|error| Error::io(path, &error))?;
    Ok(bytes)
}

/// Replaces a file: what is at `path` is the old content or the new one, whatever happens. Only the owner may
/// read the new file.
///
/// # Errors
/// If the file cannot be written; then nothing has changed.
pub(crate) fn replace(path: &Path, content: &[u8]) -> Result<()> {
    let mut file = AtomicFile::start(path, true)?;
    file.write_all(content).map_err(|error| Error::io(path, &error))?;
    file.commit().map(drop)
}

/// Links that are followed before they count as a circle.
const MAX_LINKS: usize = 40;

/// The folder of a file.
fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Whether a path is a name of an open file of this process, as `/dev/stdout` is.
fn is_descriptor(path: &Path) -> bool {
    let text = path.as_os_str().as_encoded_bytes();
    let process = text.strip_prefix(b"/proc/").and_then(|rest| rest.splitn(2, |byte| *byte == b'/').nth(1));
    [&b"/dev/stdout"[..], b"/dev/stderr", b"/dev/stdin"].contains(&text)
        || text.starts_with(b"/dev/fd/")
        || process.is_some_and(|rest| rest.starts_with(b"fd/"))
}

/// The end of all links of a path that is written to.
#[derive(Clone, Debug, PartialEq)]
pub enum Target {
    /// A regular file, or a name that is free.
    File(PathBuf),
    /// A folder, or a name that only a folder has.
    Folder,
    /// A pipe, a device or an open file of this process: written to as it is, never replaced.
    Special,
}

impl Target {
    /// Follows the links of `path`.
    ///
    /// # Errors
    /// If they have no end.
    pub fn of(path: &Path) -> Result<Target> {
        let mut target = path.to_path_buf();
        for _ in 0..MAX_LINKS {
            if is_descriptor(&target) {
                return Ok(Target::Special);
            }
            if let Ok(next) = fs::read_link(&target) {
                target = folder(&target).join(next);
                continue;
            }
            let ends_open = target.as_os_str().as_encoded_bytes().ends_with(b"/");
            return Ok(match fs::metadata(&target) {
                Ok(metadata) if metadata.is_dir() => Target::Folder,
                Ok(metadata) if !metadata.is_file() => Target::Special,
                _ if ends_open || target.file_name().is_none() => Target::Folder,
                _ => Target::File(target),
            });
        }
        Err(refused(path, "links in a circle"))
    }
}

fn refused(path: &Path, found: &str) -> Error {
    let detail = format!("output: found {found}, expected the name of a regular file");
    Error::new(ErrorKind::Io, detail).in_file(path)
}

/// A file itself, whichever of its names, spellings or links a path is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// Device and inode of a file.
    File(u64, u64),
    /// A name that is free, in a folder.
    Free(Box<Identity>, OsString),
    /// Where files have no numbers: the canonical path.
    Path(PathBuf),
}

impl Identity {
    /// What a path leads to; `None` where that is not known.
    pub fn of(path: &Path) -> Option<Identity> {
        if let Ok(metadata) = fs::metadata(path) {
            return Identity::of_metadata(&metadata)
                .or_else(|| fs::canonicalize(path).ok().map(Identity::Path));
        }
        let Ok(Target::File(target)) = Target::of(path) else { return None };
        // A folder's name has no end of its own.
        let folder = Identity::of(folder(&target))?;
        Some(Identity::Free(Box::new(folder), target.file_name()?.to_os_string()))
    }

    /// Of an open file; `None` where files have no numbers.
    #[cfg(unix)]
    pub fn of_metadata(metadata: &fs::Metadata) -> Option<Identity> {
        use std::os::unix::fs::MetadataExt;
        Some(Identity::File(metadata.dev(), metadata.ino()))
    }

    /// Of an open file; `None` where files have no numbers.
    #[cfg(not(unix))]
    pub fn of_metadata(_: &fs::Metadata) -> Option<Identity> {
        None
    }
}

/// A file that appears under its name only when it is complete. What a process that was killed has left of one is
/// removed when the next one is started in the same folder.
pub struct AtomicFile {
    /// `None` when it is complete.
    file: Option<BufWriter<File>>,
    /// Beside the file that it will replace.
    partial: PathBuf,
    target: PathBuf,
    path: PathBuf,
}

impl AtomicFile {
    /// Starts a file that will replace `path`, or what `path` is a link to, with the same permissions.
    ///
    /// # Errors
    /// If `path` is no name of a regular file, or its folder cannot be written to.
    pub fn create(path: &Path) -> Result<AtomicFile> {
        Self::start(path, false)
    }

    fn start(path: &Path, private: bool) -> Result<AtomicFile> {
        let target = match Target::of(path)? {
            Target::File(target) => target,
            Target::Folder => return Err(refused(path, "a directory")),
            Target::Special => return Err(refused(path, "a special file")),
        };
        let name = target.file_name().unwrap_or(OsStr::new("file"));
        let folder = folder(&target);
        remove_abandoned(folder);
        let (file, partial) = partial(folder, name, private).map_err(|error| Error::io(folder, &error))?;
        #[cfg(unix)]
        if let Ok(metadata) = fs::metadata(&target)
            && !private
        {
            use std::os::unix::fs::PermissionsExt;
            // As good as possible: another owner's may not be ours to give.
            let mode = metadata.permissions().mode() & 0o777;
            let _ = file.set_permissions(fs::Permissions::from_mode(mode));
        }
        let file = Some(BufWriter::with_capacity(1 << 20, file));
        Ok(AtomicFile { file, partial, target, path: path.to_path_buf() })
    }

    /// Where the bytes are until the file is complete.
    pub fn partial(&self) -> &Path {
        &self.partial
    }

    /// Names the destination in an error.
    pub fn error(path: &Path) -> impl Fn(io::Error) -> Error {
        move |error| Error::io(path, &error)
    }

    /// Makes the file durable and gives it its name. It stays locked as long as the answer is open.
    ///
    /// # Errors
    /// If it cannot be written; then what was there before is untouched.
    pub fn commit(mut self) -> Result<File> {
        let error = |error: io::Error| Error::io(&self.path, &error);
        let Some(buffer) = self.file.as_mut() else {
            return Err(Error::new(ErrorKind::Internal, "a file was completed twice"));
        };
        buffer.flush().and_then(|()| buffer.get_ref().sync_all()).map_err(error)?;
        fs::rename(&self.partial, &self.target).map_err(error)?;
        sync_folder(&self.target);
        match self.file.take().map(BufWriter::into_parts) {
            Some((file, _)) => Ok(file),
            None => Err(Error::new(ErrorKind::Internal, "a file was completed twice")),
        }
    }
}

impl Drop for AtomicFile {
    fn drop(&mut self) {
        if let Some(file) = self.file.take() {
            // What is in the buffer is not worth writing.
            drop(file.into_parts());
            let _ = fs::remove_file(&self.partial);
        }
    }
}

impl AtomicFile {
    fn buffer(&mut self) -> io::Result<&mut BufWriter<File>> {
        self.file.as_mut().ok_or_else(|| io::Error::other("the file is complete"))
    }
}

impl Write for AtomicFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer()?.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.buffer()?.flush()
    }
}

impl Seek for AtomicFile {
    fn seek(&mut self, position: SeekFrom) -> io::Result<u64> {
        self.buffer()?.seek(position)
    }
}

/// Makes a file's name durable; where folders cannot be opened, that is the system's affair.
pub fn sync_folder(path: &Path) {
    if let Ok(folder) = File::open(folder(path)) {
        let _ = folder.sync_all();
    }
}

/// The end of the name of every file that is not complete.
const PARTIAL: &str = ".partial";
/// What comes before the process in such a name.
const MARK: &str = ".cinderblock-";
/// Bytes of a name that are kept in such a name; systems have a limit of 255.
const MAX_NAME: usize = 180;

/// A new, locked file beside the one that it will replace: `.NAME.cinderblock-PROCESS-ATTEMPT.partial`.
fn partial(folder: &Path, name: &OsStr, private: bool) -> io::Result<(File, PathBuf)> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, if private { 0o600 } else { 0o666 });
    #[cfg(not(unix))]
    let _ = private;
    let name = if name.len() <= MAX_NAME { name } else { OsStr::new("long") };
    let mut attempt = 0;
    loop {
        let mut partial = OsString::from(".");
        partial.push(name);
        partial.push(format!("{MARK}{}-{attempt}{PARTIAL}", std::process::id()));
        let partial = folder.join(partial);
        match options.open(&partial) {
            Ok(file) if owns(&file) => return Ok((file, partial)),
            // Taken for abandoned in between.
            Ok(_) if attempt < 1000 => {}
            // Another thread is writing the same file, or the process of the same number in another container.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && attempt < 1000 => {}
            result => return Ok((result?, partial)),
        }
        attempt += 1;
    }
}

/// Locks a file that was just made. Whether it still has its name.
fn owns(file: &File) -> bool {
    match file.try_lock() {
        Ok(()) => {}
        Err(fs::TryLockError::WouldBlock) => return false,
        // A file system without locks: nobody can take the file for abandoned.
        Err(fs::TryLockError::Error(_)) => return true,
    }
    #[cfg(unix)]
    return file.metadata().is_ok_and(|metadata| std::os::unix::fs::MetadataExt::nlink(&metadata) > 0);
    #[cfg(not(unix))]
    true
}

/// Removes what processes have left that were killed while they wrote: files that nobody has locked.
fn remove_abandoned(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let ours = name.starts_with('.') && name.ends_with(PARTIAL) && name.contains(MARK);
        if !ours || !entry.file_type().is_ok_and(|kind| kind.is_file()) {
            continue;
        }
        let path = entry.path();
        // Only where locks work is a file without one abandoned.
        if let Ok(file) = OpenOptions::new().write(true).open(&path)
            && file.try_lock().is_ok()
        {
            let _ = fs::remove_file(&path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn a_file_is_there_whole_or_not_at_all() {
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "old").unwrap();
        let mut file = AtomicFile::create(&path).unwrap();
        file.write_all(b"new").unwrap();
        assert_eq!((fs::read(&path).unwrap(), names(folder.path()).len()), (b"old".to_vec(), 2));
        drop(file);
        assert_eq!((fs::read(&path).unwrap(), names(folder.path()).len()), (b"old".to_vec(), 1));
        let mut file = AtomicFile::create(&path).unwrap();
        file.write_all(b"new").unwrap();
        file.commit().unwrap();
        assert_eq!((fs::read(&path).unwrap(), names(folder.path())), (b"new".to_vec(), vec!["file".into()]));
    }

    #[test]
    fn abandoned_files_are_removed_and_others_are_not() {
        let folder = tempfile::TempDir::new().unwrap();
        let path = |name: &str| folder.path().join(name);
        let abandoned = ".m.gguf.cinderblock-1-0.partial";
        for name in [abandoned, ".other.partial", "x.cinderblock-1-0.partial"] {
            fs::write(path(name), "half").unwrap();
        }
        let first = AtomicFile::create(&path("m.gguf")).unwrap();
        let second = AtomicFile::create(&path("m.gguf")).unwrap();
        assert!(first.partial().exists() && second.partial().exists() && !path(abandoned).exists());
        first.commit().unwrap();
        second.commit().unwrap();
        assert_eq!(names(folder.path()), [".other.partial", "m.gguf", "x.cinderblock-1-0.partial"]);
        // The longest name that there can be.
        AtomicFile::create(&path(&"n".repeat(255))).unwrap().commit().unwrap();
        assert_eq!(names(folder.path()).len(), 4);
    }

    #[test]
    #[cfg(unix)]
    fn links_are_followed_and_special_files_are_not_replaced() {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let folder = tempfile::TempDir::new().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::create_dir(path("deep")).unwrap();
        symlink("deep/target", path("link")).unwrap();
        symlink("link", path("second")).unwrap();
        for content in ["one", "two"] {
            AtomicFile::create(&path("second"))
                .and_then(|mut file| {
                    file.write_all(content.as_bytes()).unwrap();
                    file.commit()
                })
                .unwrap();
            assert_eq!(fs::read_to_string(path("deep/target")).unwrap(), content);
            assert!(fs::symlink_metadata(path("second")).unwrap().is_symlink());
            // Permissions are kept.
            let mode = fs::metadata(path("deep/target")).unwrap().permissions().mode() & 0o777;
            assert!(content == "one" || mode == 0o640, "{mode:o}");
            fs::set_permissions(path("deep/target"), fs::Permissions::from_mode(0o640)).unwrap();
        }
        symlink("circle", path("circle")).unwrap();
        symlink("/dev/stdout", path("stdout")).unwrap();
        for (name, found) in [
            (path("circle"), "links in a circle"),
            (path("stdout"), "a special file"),
            (path("deep"), "a directory"),
            (path("absent/"), "a directory"),
            (PathBuf::from("/dev/null"), "a special file"),
            (PathBuf::from("/dev/fd/1"), "a special file"),
            (PathBuf::from("/proc/self/fd/1"), "a special file"),
            (PathBuf::new(), "a directory"),
        ] {
            let error = AtomicFile::create(&name).err().unwrap().to_string();
            assert!(error.contains(found) && !error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn a_file_is_the_same_by_every_name() {
        let folder = tempfile::TempDir::new().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("file"), "x").unwrap();
        fs::create_dir(path("deep")).unwrap();
        let file = Identity::of(&path("file")).unwrap();
        assert_eq!(Identity::of(&path("deep/../file")), Some(file.clone()));
        assert_ne!(Identity::of(&path("other")), Some(file.clone()));
        assert_eq!(Identity::of(&path("other")), Identity::of(&path("deep/../other")));
        #[cfg(unix)]
        {
            fs::hard_link(path("file"), path("hard")).unwrap();
            std::os::unix::fs::symlink("file", path("soft")).unwrap();
            std::os::unix::fs::symlink("other", path("dangling")).unwrap();
            assert_eq!(Identity::of(&path("hard")), Some(file.clone()));
            assert_eq!(Identity::of(&path("soft")), Some(file));
            assert_eq!(Identity::of(&path("dangling")), Identity::of(&path("other")));
        }
    }
}
