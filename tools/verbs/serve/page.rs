//! The page: three files that are part of the program, and a policy that allows nothing from elsewhere.

use axum::body::Body;
use axum::http::{HeaderValue, Response, header};

/// No source but this server.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; \
base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

fn file(kind: &'static str, text: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::from(text));
    for (name, value) in [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-cache"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

pub async fn html() -> Response<Body> {
    file("text/html; charset=utf-8", include_str!("page/page.html"))
}

pub async fn script() -> Response<Body> {
    file("text/javascript; charset=utf-8", include_str!("page/page.js"))
}

pub async fn style() -> Response<Body> {
    file("text/css; charset=utf-8", include_str!("page/page.css"))
}
