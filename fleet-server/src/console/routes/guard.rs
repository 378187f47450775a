//! The session of a request, and the headers that keep others out of a page.

use super::super::Console;
use super::super::login::{SESSION_S, Secret, Session};
use crate::clock;
use axum::extract::{FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{Html, IntoResponse as _, Response};

/// The prefix makes browsers refuse it from other hosts and without TLS.
const COOKIE: &str = "__Host-sedge";
/// A page that refreshes itself says so; that is no use of the session by a person.
const LIVE: &str = "sedge-live";

const HEADERS: [(HeaderName, &str); 6] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'self'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
         object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

/// Whoever sent a request with the cookie of a session.
pub(in crate::console) struct SignedIn {
    pub(in crate::console) cookie: Secret,
    pub(in crate::console) session: Session,
}

impl FromRequestParts<Console> for SignedIn {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, console: &Console) -> Result<Self, Response> {
        let Some(cookie) = cookie(&parts.headers) else { return Err(to_login(&parts.headers)) };
        let used = !parts.headers.contains_key(LIVE) && parts.uri.path() != "/events";
        match console.login.session(&cookie, used, clock::now()).await {
            Ok(Some(session)) => Ok(Self { cookie, session }),
            Ok(None) => Err(to_login(&parts.headers)),
            Err(e) => Err(console.failed(&e)),
        }
    }
}

fn cookie(headers: &HeaderMap) -> Option<Secret> {
    let cookies = headers.get_all(header::COOKIE).into_iter().filter_map(|value| value.to_str().ok());
    let mut values = cookies.flat_map(|value| value.split(';')).filter_map(|cookie| cookie.trim().split_once('='));
    values.find(|(name, _)| *name == COOKIE).and_then(|(_, value)| Secret::from_request(value))
}

/// Strict: a page of another site that leads here opens no page with the session. The login works with that, since its
/// last step leaves from a page of ours.
pub(super) fn set_cookie(secret: &Secret) -> String {
    format!("{COOKIE}={}; Path=/; Max-Age={SESSION_S}; Secure; HttpOnly; SameSite=Strict", secret.reveal())
}

pub(super) fn clear_cookie() -> String {
    format!("{COOKIE}=; Path=/; Max-Age=0; Secure; HttpOnly; SameSite=Strict")
}

/// A script would follow a redirect unseen, so htmx is told to lead the whole page there.
fn to_login(headers: &HeaderMap) -> Response {
    if headers.contains_key("hx-request") {
        return (StatusCode::UNAUTHORIZED, [("hx-redirect", "/login")], Html("Signed out.")).into_response();
    }
    (StatusCode::SEE_OTHER, [(header::LOCATION, "/login")]).into_response()
}

/// Lets a request that changes something pass only when a page of this host sent it. Where a browser does not say
/// (`Sec-Fetch-Site`), its `Origin` decides.
pub(super) async fn refuse_other_sites(request: Request, next: Next) -> Response {
    if *request.method() == Method::POST && !is_own(request.headers()) {
        return (StatusCode::FORBIDDEN, Html("Another site sent this.")).into_response();
    }
    next.run(request).await
}

fn is_own(headers: &HeaderMap) -> bool {
    let text = |name: HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    if let Some(site) = text(HeaderName::from_static("sec-fetch-site")) {
        return matches!(site, "same-origin" | "none");
    }
    match text(header::ORIGIN) {
        None => true,
        // What a browser writes for a form of a page without referrers; those that do so also say `Sec-Fetch-Site`.
        Some("null") => false,
        Some(origin) => {
            let origin = origin.parse::<Uri>().ok();
            let authority = origin.as_ref().and_then(Uri::authority).map(|authority| authority.as_str());
            authority.is_some() && authority == text(header::HOST)
        }
    }
}

/// Adds what every answer of the console has.
pub(super) async fn harden(mut response: Response) -> Response {
    let headers = response.headers_mut();
    for (name, value) in HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    // Pages hold what only this session may see; files bring their own word.
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(all: &[(&'static str, &'static str)]) -> HeaderMap {
        all.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn only_pages_of_this_host_change_something() {
        for (all, own) in [
            (&[][..], true),
            (&[("sec-fetch-site", "same-origin"), ("origin", "null")], true),
            (&[("sec-fetch-site", "none")], true),
            (&[("sec-fetch-site", "same-site")], false),
            (&[("sec-fetch-site", "cross-site"), ("host", "a:1"), ("origin", "https://a:1")], false),
            (&[("host", "a:1"), ("origin", "https://a:1")], true),
            (&[("host", "a:1"), ("origin", "https://a:2")], false),
            (&[("host", "a:1"), ("origin", "https://b:1")], false),
            (&[("host", "a:1"), ("origin", "null")], false),
            (&[("origin", "https://a:1")], false),
        ] {
            assert_eq!(is_own(&headers(all)), own, "{all:?}");
        }
    }

    #[test]
    fn the_cookie_is_found_among_others() {
        let secret = "a".repeat(43);
        for (value, found) in [
            (format!("a=b; __Host-sedge={secret}; c=d"), true),
            (format!("__Host-sedge={secret}"), true),
            (format!("__Host-sedgex={secret}"), false),
            (format!("x__Host-sedge={secret}"), false),
            (format!("__Host-sedge={secret}a"), false),
            ("__Host-sedge=".into(), false),
        ] {
            let headers = HeaderMap::from_iter([(header::COOKIE, value.parse().expect("a value"))]);
            assert_eq!(cookie(&headers).is_some(), found, "{value}");
        }
    }
}
