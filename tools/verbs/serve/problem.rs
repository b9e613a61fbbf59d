//! What is wrong with a request, in the shape of OpenAI's errors.

use axum::body::Body;
use axum::http::{HeaderValue, Response, StatusCode, header};
use axum::response::IntoResponse;
use cinderblock::{Error, ErrorKind};
use serde_json::{Value as Json, json};

use crate::output;

/// An error of one request.
#[derive(Debug)]
pub struct Problem {
    pub status: StatusCode,
    /// One line: what was found and what was expected.
    pub message: String,
    /// The parameter that it is about.
    pub parameter: Option<String>,
}

impl Problem {
    /// An error with a status.
    pub fn new(status: StatusCode, message: impl Into<String>) -> Problem {
        Problem { status, message: message.into(), parameter: None }
    }

    /// A request that can never be right.
    pub fn bad(message: impl Into<String>) -> Problem {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// Names the parameter that the error is about.
    #[must_use]
    pub fn about(mut self, name: &str) -> Problem {
        self.parameter = Some(name.to_string());
        self
    }

    /// OpenAI's names for the type and the code.
    fn names(&self) -> (&'static str, Option<&'static str>) {
        match self.status.as_u16() {
            401 => ("authentication_error", Some("invalid_api_key")),
            403 => ("permission_error", None),
            404 => ("not_found_error", Some("not_found")),
            429 => ("rate_limit_error", Some("queue_full")),
            500.. => ("server_error", None),
            _ => ("invalid_request_error", None),
        }
    }

    /// The error as JSON.
    pub fn json(&self) -> Json {
        let (kind, code) = self.names();
        json!({"error": {"message": self.message, "type": kind, "param": self.parameter, "code": code}})
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Problem {
        let status = match error.kind() {
            ErrorKind::Argument | ErrorKind::Format | ErrorKind::Unsupported => StatusCode::BAD_REQUEST,
            ErrorKind::Resource | ErrorKind::Interrupted => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Problem::new(status, error.to_string())
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response<Body> {
        let mut response = json_response(self.status, &self.json());
        let headers = response.headers_mut();
        match self.status {
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            }
            StatusCode::UNAUTHORIZED => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            _ => {}
        }
        response
    }
}

/// Characters of what a client sent that an error shows.
pub const SHOWN: usize = 60;

/// The first characters of what a client sent, in quotes.
pub fn quoted(text: &str) -> String {
    let (start, more) = output::beginning(text, SHOWN);
    format!("{start:?}{more}")
}

/// A response with a JSON body.
pub fn json_response(status: StatusCode, json: &Json) -> Response<Body> {
    let mut response = Response::new(Body::from(json.to_string()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
