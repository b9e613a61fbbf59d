//! Who may use the server: keys, host names and origins.

use std::net::IpAddr;
use std::path::Path;

use axum::http::{HeaderMap, StatusCode, header};
use cinderblock::{Error, Result};
use sha2::{Digest, Sha256};

use super::problem::{Problem, quoted};
use crate::arguments::read_text;
use crate::input;

/// What is open to all: the page itself, and what supervisors ask.
const OPEN: [&str; 6] = ["/", "/page.js", "/page.css", "/health", "/ready", "/openapi.json"];

/// The rules of access.
pub struct Guard {
    /// Digests of the keys, so that comparing takes the same time whatever a wrong key has in common with a right one.
    keys: Vec<[u8; 32]>,
    origins: Vec<String>,
    hosts: Vec<String>,
}

impl Guard {
    /// Rules with the keys of a file, one a line.
    ///
    /// # Errors
    /// If it cannot be read or has no key, or an origin is none.
    pub fn new(keys: Option<&Path>, origins: Vec<String>, hosts: Vec<String>) -> Result<Guard> {
        if let Some(origin) = origins.iter().find(|origin| !origin.contains("://") || origin.ends_with('/')) {
            return Err(Error::argument(format!(
                "origin: found {origin:?}, expected one like https://example.org"
            )));
        }
        let mut digests = Vec::new();
        if let Some(path) = keys {
            let text = read_text(path, input::SMALL)?;
            digests.extend(text.lines().map(str::trim).filter(|key| !key.is_empty()).map(digest));
            if digests.is_empty() {
                return Err(Error::mismatch("keys", "none", "at least one, each on a line").in_file(path));
            }
        }
        Ok(Guard { keys: digests, origins, hosts })
    }

    /// Whether requests need a key.
    pub fn has_keys(&self) -> bool {
        !self.keys.is_empty()
    }

    /// Whether pages of an origin may use the server.
    pub fn allows_origin(&self, origin: &str) -> bool {
        self.origins.iter().any(|allowed| allowed == origin)
    }

    /// Checks a request.
    ///
    /// # Errors
    /// If it may not be answered.
    pub fn check(&self, path: &str, headers: &HeaderMap, is_tcp: bool) -> std::result::Result<(), Problem> {
        let text = |name| headers.get(name).and_then(|value: &axum::http::HeaderValue| value.to_str().ok());
        let host = text(header::HOST).unwrap_or_default();
        // A server before this one could have read another of them.
        if headers.get_all(header::HOST).iter().count() > 1 {
            return Err(Problem::bad("host: found several, expected one"));
        }
        // Without keys, a name that leads here could belong to a page elsewhere (DNS rebinding).
        if is_tcp && !self.has_keys() && !self.answers_to(host) {
            let message = format!(
                "host: found {}, expected localhost, an address, or a name given with --allow-host",
                quoted(host)
            );
            return Err(Problem::new(StatusCode::FORBIDDEN, message));
        }
        if let Some(origin) = text(header::ORIGIN) {
            let own = origin.split_once("://").is_some_and(|(_, name)| name == host);
            if !own && !self.allows_origin(origin) {
                let message = format!(
                    "origin: found {}, expected the server's own or one given with --allow-origin",
                    quoted(origin)
                );
                return Err(Problem::new(StatusCode::FORBIDDEN, message));
            }
        }
        if !self.has_keys() || OPEN.contains(&path) {
            return Ok(());
        }
        let given = text(header::AUTHORIZATION).and_then(|value| value.strip_prefix("Bearer "));
        let given = digest(given.unwrap_or_default().trim());
        let same = |key: &[u8; 32]| key.iter().zip(&given).fold(0, |bits, (a, b)| bits | (a ^ b)) == 0;
        // Every key is compared.
        match self.keys.iter().filter(|key| same(key)).count() {
            0 => Err(Problem::new(
                StatusCode::UNAUTHORIZED,
                "key: expected \"Authorization: Bearer KEY\" with a key of this server",
            )),
            _ => Ok(()),
        }
    }

    fn answers_to(&self, host: &str) -> bool {
        let name = match host.strip_prefix('[') {
            Some(rest) => rest.split(']').next().unwrap_or_default(),
            None => host.rsplit_once(':').map_or(host, |(name, _)| name),
        };
        name.eq_ignore_ascii_case("localhost")
            || name.parse::<IpAddr>().is_ok()
            || self.hosts.iter().any(|known| known.eq_ignore_ascii_case(name))
    }
}

fn digest(key: &str) -> [u8; 32] {
    Sha256::digest(key).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(guard: &Guard, path: &str, lines: &[(header::HeaderName, &str)]) -> Option<u16> {
        let headers = lines.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect();
        guard.check(path, &headers, true).err().map(|problem| problem.status.as_u16())
    }

    #[test]
    fn hosts_origins_and_keys_are_checked() {
        let open = Guard::new(None, vec!["https://a.example".into()], vec!["box".into()]).unwrap();
        for (host, expected) in [
            ("localhost:80", None),
            ("[::1]:80", None),
            ("box", None),
            ("evil.example", Some(403)),
            ("", Some(403)),
        ] {
            assert_eq!(status(&open, "/v1/models", &[(header::HOST, host)]), expected, "{host}");
        }
        for (origin, expected) in [
            ("http://box:1", None),
            ("https://a.example", None),
            ("https://b.example", Some(403)),
            ("null", Some(403)),
        ] {
            assert_eq!(
                status(&open, "/", &[(header::HOST, "box:1"), (header::ORIGIN, origin)]),
                expected,
                "{origin}"
            );
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "one\n\n two \n").unwrap();
        let closed = Guard::new(Some(file.path()), Vec::new(), Vec::new()).unwrap();
        for (key, expected) in [
            ("Bearer one", None),
            ("Bearer two", None),
            ("Bearer on", Some(401)),
            ("one", Some(401)),
            ("Bearer ", Some(401)),
        ] {
            assert_eq!(
                status(&closed, "/metrics", &[(header::HOST, "x"), (header::AUTHORIZATION, key)]),
                expected,
                "{key}"
            );
        }
        assert_eq!(status(&closed, "/health", &[]), None);
        assert!(Guard::new(None, vec!["example.org".into()], Vec::new()).is_err());
    }
}
