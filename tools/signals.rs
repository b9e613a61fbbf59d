//! Signals: the only unsafe code of this package, small enough to be read whole.
//!
//! A signal that was ignored when the program started (`nohup`, the background jobs of a script) stays ignored.

/// Signals that ask the program to stop.
#[cfg(unix)]
const STOPPING: [i32; 3] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP];

/// Ctrl-C.
#[cfg(unix)]
pub const INTERRUPT: i32 = libc::SIGINT;
/// Ctrl-C.
#[cfg(not(unix))]
pub const INTERRUPT: i32 = 2;

/// The exit code of a program that a signal has ended.
pub fn exit_code(signal: i32) -> i32 {
    128 + signal
}

#[cfg(unix)]
mod unix {
    use std::io::{self, Read};
    use std::mem::MaybeUninit;
    use std::os::fd::IntoRawFd;
    use std::ptr::{null, null_mut};
    use std::sync::atomic::{AtomicI32, Ordering};
    use std::sync::{Mutex, PoisonError};

    /// The pipe from the handler to the thread that listens.
    static PIPE: AtomicI32 = AtomicI32::new(-1);

    /// Passes a signal on as a byte: writing to a pipe is one of the few things that a handler may do.
    extern "C" fn pass_on(signal: i32) {
        let byte = signal as u8;
        // SAFETY: `write` is async-signal-safe; the byte outlives the call, and the pipe is never closed.
        unsafe { libc::write(PIPE.load(Ordering::Relaxed), (&raw const byte).cast(), 1) };
    }

    /// Calls `each` in a thread of its own for every signal that asks to stop.
    ///
    /// # Errors
    /// If the pipe or the thread cannot be had; then signals keep their usual meaning.
    pub fn listen(mut each: impl FnMut(i32) + Send + 'static) -> io::Result<()> {
        let (mut reader, writer) = io::pipe()?;
        PIPE.store(writer.into_raw_fd(), Ordering::Relaxed);
        std::thread::Builder::new().name("signals".into()).spawn(move || {
            let mut byte = [0];
            while reader.read_exact(&mut byte).is_ok() {
                each(i32::from(byte[0]));
            }
        })?;
        super::STOPPING.into_iter().filter(|&signal| !is_ignored(signal)).for_each(|signal| {
            handle(signal, pass_on as extern "C" fn(i32) as libc::sighandler_t);
        });
        Ok(())
    }

    /// A socket that the parent process has opened for this one, with the number that it has said.
    ///
    /// # Errors
    /// If there is no open file of this number.
    #[cfg(feature = "serve")]
    pub fn inherited(number: i32) -> io::Result<std::os::fd::OwnedFd> {
        // SAFETY: a plain call.
        let flags = unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) };
        if flags < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the file is open, and whoever has passed it gave it to this process alone; nothing else here uses it.
        Ok(unsafe { std::os::fd::FromRawFd::from_raw_fd(number) })
    }

    /// Whether a file is a socket that accepts connections.
    #[cfg(feature = "serve")]
    pub fn is_listening(socket: &std::os::fd::OwnedFd) -> bool {
        use std::os::fd::AsRawFd;
        let (mut value, mut size) = (0i32, size_of::<i32>() as libc::socklen_t);
        let to: *mut i32 = &mut value;
        // SAFETY: the call writes at most `size` bytes, those of `value`.
        let result = unsafe {
            libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_ACCEPTCONN, to.cast(), &mut size)
        };
        result == 0 && value != 0
    }

    fn is_ignored(signal: i32) -> bool {
        let mut old = MaybeUninit::<libc::sigaction>::uninit();
        // SAFETY: nothing is changed; the old action is read only if the call has written it.
        unsafe {
            libc::sigaction(signal, null(), old.as_mut_ptr()) == 0
                && old.assume_init().sa_sigaction == libc::SIG_IGN
        }
    }

    fn handle(signal: i32, handler: libc::sighandler_t) {
        // SAFETY: an action of zeros is a valid one, an empty mask included; the handlers of this module call
        // async-signal-safe functions alone. SA_RESTART: system calls of other threads go on.
        unsafe {
            let mut action: libc::sigaction = MaybeUninit::zeroed().assume_init();
            action.sa_sigaction = handler;
            action.sa_flags = libc::SA_RESTART;
            libc::sigaction(signal, &action, null_mut());
        }
    }

    /// Ends the process by a signal, so that the parent sees which one; a shell reports 128 + signal.
    pub fn die(signal: i32) -> ! {
        restore_terminal();
        handle(signal, libc::SIG_DFL);
        // SAFETY: plain calls; a blocked signal would stay pending, and the exit below would still follow.
        unsafe { libc::raise(signal) };
        std::process::exit(super::exit_code(signal))
    }

    const BUS_ERROR: &[u8] =
        b"error: a mapped file shrank, or its storage failed, while it was read; --no-mmap reads a model \
into memory first\n";

    extern "C" fn bus_error(_signal: i32) {
        // SAFETY: both calls are async-signal-safe; the text is static.
        unsafe {
            libc::write(2, BUS_ERROR.as_ptr().cast(), BUS_ERROR.len());
            libc::_exit(1)
        }
    }

    /// From now on, a mapped file that can no longer be read ends the program with one line instead of SIGBUS.
    pub fn explain_bus_errors() {
        handle(libc::SIGBUS, bus_error as extern "C" fn(i32) as libc::sighandler_t);
    }

    /// From now on, a file that reaches the limit of its size is an error of the write, not the end of the program.
    pub fn survive_size_limits() {
        handle(libc::SIGXFSZ, libc::SIG_IGN);
    }

    /// The terminal's settings before a line editor changed them.
    static TERMINAL: Mutex<Option<libc::termios>> = Mutex::new(None);

    /// Remembers the settings of the terminal, if standard input is one, for [`die`].
    pub fn remember_terminal() {
        let mut settings = MaybeUninit::uninit();
        // SAFETY: the settings are read only if the call has written them.
        let settings =
            unsafe { (libc::tcgetattr(0, settings.as_mut_ptr()) == 0).then(|| settings.assume_init()) };
        *TERMINAL.lock().unwrap_or_else(PoisonError::into_inner) = settings;
    }

    fn restore_terminal() {
        if let Some(settings) = &*TERMINAL.lock().unwrap_or_else(PoisonError::into_inner) {
            // SAFETY: settings that `tcgetattr` has given.
            unsafe { libc::tcsetattr(0, libc::TCSANOW, settings) };
        }
    }
}

#[cfg(unix)]
pub use unix::{die, explain_bus_errors, listen, remember_terminal, survive_size_limits};
#[cfg(all(unix, feature = "serve"))]
pub use unix::{inherited, is_listening};

#[cfg(not(unix))]
mod other {
    /// Calls `each` in a thread of its own for every Ctrl-C.
    pub fn listen(mut each: impl FnMut(i32) + Send + 'static) -> std::io::Result<()> {
        ctrlc::set_handler(move || each(super::INTERRUPT)).map_err(std::io::Error::other)
    }

    /// Ends the process as a signal would.
    pub fn die(signal: i32) -> ! {
        std::process::exit(super::exit_code(signal))
    }

    pub fn explain_bus_errors() {}

    pub fn survive_size_limits() {}

    pub fn remember_terminal() {}
}

#[cfg(not(unix))]
pub use other::{die, explain_bus_errors, listen, remember_terminal, survive_size_limits};
