//! Where the server listens: an address, a Unix socket, or sockets that systemd has opened.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use cinderblock::{Error, Result};
use tokio::net::TcpListener;

use super::connection::Listener;

/// Listeners, and the addresses to be printed.
type Listeners = (Vec<Listener>, Vec<String>);

/// Listens on an address.
///
/// # Errors
/// If that is not possible.
pub async fn tcp(host: IpAddr, port: u16) -> Result<Listeners> {
    let address = SocketAddr::new(host, port);
    let failed = |error: std::io::Error| Error::io_text(&error).in_file(Path::new(&address.to_string()));
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok((vec![Listener::Tcp(listener)], vec![format!("http://{address}")]))
}

/// Listens on a Unix socket. A socket that an earlier server has left there is replaced.
///
/// # Errors
/// If that is not possible, or another server listens there.
#[cfg(unix)]
pub fn unix(path: &Path) -> Result<Listeners> {
    use std::os::unix::fs::FileTypeExt;
    let failed = |error: std::io::Error| Error::io(path, &error);
    if let Ok(metadata) = path.symlink_metadata() {
        if !metadata.file_type().is_socket() {
            return Err(Error::mismatch("socket", "a file of another type", "a new name").in_file(path));
        }
        // Any other answer than this one is that of a server.
        let answer = std::os::unix::net::UnixStream::connect(path);
        if answer.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused) {
            std::fs::remove_file(path).map_err(failed)?;
        }
    }
    let listener = tokio::net::UnixListener::bind(path).map_err(failed)?;
    Ok((vec![Listener::Unix(listener)], vec![format!("unix:{}", path.display())]))
}

#[cfg(not(unix))]
pub fn unix(_path: &Path) -> Result<Listeners> {
    Err(Error::unsupported("socket: found a path, expected a system with Unix sockets"))
}

/// Sockets that another process has opened for this one.
#[cfg(unix)]
pub type Inherited = Vec<std::os::fd::OwnedFd>;
#[cfg(not(unix))]
pub type Inherited = Vec<()>;

/// The sockets that systemd passes (`LISTEN_PID` and `LISTEN_FDS`).
///
/// # Errors
/// If one of them is no listening socket.
#[cfg(unix)]
pub fn inherited() -> Result<Inherited> {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u32>());
    match (number("LISTEN_PID"), number("LISTEN_FDS")) {
        (Some(Ok(process)), Some(Ok(count))) if process == std::process::id() => (0..count.min(16))
            .map(|index| {
                let number = 3 + index as i32;
                let name = format!("inherited socket {number} of LISTEN_FDS={count}");
                let socket = crate::signals::inherited(number)
                    .map_err(|error| Error::io_text(&error).in_file(Path::new(&name)))?;
                if !crate::signals::is_listening(&socket) {
                    let found = "a file that is no listening socket";
                    return Err(
                        Error::mismatch("socket", found, "one that listens").in_file(Path::new(&name))
                    );
                }
                Ok(socket)
            })
            .collect(),
        _ => Ok(Vec::new()),
    }
}

/// The address of an inherited socket that other machines can reach, if there is one.
///
/// # Errors
/// If the address of one cannot be read.
#[cfg(unix)]
pub fn open_address(sockets: &Inherited) -> Result<Option<IpAddr>> {
    for socket in sockets {
        let copy = socket.try_clone().map_err(|error| Error::io_text(&error))?;
        // A Unix socket has no such address.
        if let Ok(address) = std::net::TcpListener::from(copy).local_addr()
            && !address.ip().to_canonical().is_loopback()
        {
            return Ok(Some(address.ip()));
        }
    }
    Ok(None)
}

#[cfg(not(unix))]
pub fn open_address(_sockets: &Inherited) -> Result<Option<IpAddr>> {
    Ok(None)
}

#[cfg(not(unix))]
pub fn inherited() -> Result<Inherited> {
    Ok(Vec::new())
}

/// Listens on inherited sockets.
///
/// # Errors
/// If one is no listening socket.
#[cfg(unix)]
pub fn adopt(sockets: Inherited) -> Result<Listeners> {
    let failed = |error: std::io::Error| Error::io_text(&error).in_file(Path::new("the inherited socket"));
    let (mut listeners, mut addresses) = (Vec::new(), Vec::new());
    for socket in sockets {
        let listener = std::net::TcpListener::from(socket);
        listener.set_nonblocking(true).map_err(failed)?;
        if let Ok(address) = listener.local_addr() {
            addresses.push(format!("http://{address}"));
            listeners.push(Listener::Tcp(TcpListener::from_std(listener).map_err(failed)?));
        } else {
            let listener = std::os::unix::net::UnixListener::from(std::os::fd::OwnedFd::from(listener));
            addresses.push("unix:inherited".to_string());
            listeners.push(Listener::Unix(tokio::net::UnixListener::from_std(listener).map_err(failed)?));
        }
    }
    Ok((listeners, addresses))
}

#[cfg(not(unix))]
pub fn adopt(_sockets: Inherited) -> Result<Listeners> {
    Ok((Vec::new(), Vec::new()))
}
