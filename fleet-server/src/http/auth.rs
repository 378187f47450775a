//! API tokens: `sedgeadm_` and 32 random bytes. Only the hash is kept, so neither a backup nor the log gives access.

use super::problem::Problem;
use crate::clock;
use crate::store::{EdgeStore, Scope};
use axum::extract::{FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use sedge_protocol::Sha256Digest;
use std::fmt;
use std::sync::Arc;

const PREFIX: &str = "sedgeadm_";
const SECRET_BYTES: usize = 32;
/// Prefix and 43 characters of base64.
const LENGTH: usize = PREFIX.len() + 43;

/// A new API token. It prints without its secret.
pub struct ApiSecret(String);

impl ApiSecret {
    /// Of the system's random bytes.
    ///
    /// # Errors
    /// When the system has none.
    pub fn generate() -> Result<Self, getrandom::Error> {
        let mut secret = [0; SECRET_BYTES];
        getrandom::fill(&mut secret)?;
        Ok(Self(format!("{PREFIX}{}", BASE64_URL_SAFE_NO_PAD.encode(secret))))
    }

    /// What is kept.
    pub fn hash(&self) -> Sha256Digest {
        Sha256Digest::of(self.0.as_bytes())
    }

    /// What is handed over, once.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for ApiSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiSecret")
    }
}

/// Who calls the API. Every handler below `/api/v1` can take it. To look needs scope `read`, everything else at least
/// `operate`, before the handler is reached; what needs more asks with [`Operator::require`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operator {
    /// The token's name, for the audit.
    pub name: String,
    /// What it allows.
    pub scope: Scope,
}

impl Operator {
    /// Goes on only with this scope.
    ///
    /// # Errors
    /// When the token allows less.
    pub fn require(&self, scope: Scope) -> Result<(), Problem> {
        if self.scope >= scope {
            return Ok(());
        }
        let detail =
            format!("the token `{}` has scope `{}`; this needs `{}`", self.name, self.scope.as_str(), scope.as_str());
        let title = "The API token does not allow this.";
        Err(Problem::new(StatusCode::FORBIDDEN, "scope", title, detail, "Use a token with that scope."))
    }
}

impl<S: Sync> FromRequestParts<S> for Operator {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        parts.extensions.get::<Self>().cloned().ok_or_else(unauthenticated)
    }
}

pub(super) async fn authenticate(
    State(store): State<Arc<dyn EdgeStore>>,
    mut request: Request,
    next: Next,
) -> Response {
    match operator(&*store, request.headers(), request.method()).await {
        Ok(operator) => {
            request.extensions_mut().insert(operator);
            next.run(request).await
        }
        Err(problem) => problem.into_response(),
    }
}

async fn operator(store: &dyn EdgeStore, headers: &HeaderMap, method: &Method) -> Result<Operator, Problem> {
    let value = headers.get(header::AUTHORIZATION).ok_or_else(unauthenticated)?;
    let token = value.to_str().ok().and_then(|value| value.split_once(' '));
    let Some((scheme, token)) = token else { return Err(unauthenticated()) };
    let token = token.trim();
    if !scheme.eq_ignore_ascii_case("bearer") || token.len() != LENGTH || !token.starts_with(PREFIX) {
        return Err(unauthenticated());
    }
    let known = store.use_api_token(&Sha256Digest::of(token.as_bytes()), clock::now()).await?;
    let known = known.ok_or_else(unauthenticated)?;
    let operator = Operator { name: known.name, scope: known.scope };
    let is_look = matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS);
    operator.require(if is_look { Scope::Read } else { Scope::Operate })?;
    Ok(operator)
}

fn unauthenticated() -> Problem {
    let title = "An API token is needed.";
    let detail = "no valid `Authorization: Bearer sedgeadm_…` came with the request";
    let hint = "The first start wrote a token to the file `admin-token` in the data directory.";
    Problem::new(StatusCode::UNAUTHORIZED, "unauthenticated", title, detail, hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_has_its_length_and_does_not_print() {
        let secret = ApiSecret::generate().expect("random bytes");
        assert_eq!(secret.reveal().len(), LENGTH);
        assert_eq!(format!("{secret:?}"), "ApiSecret");
    }

    #[test]
    fn scopes_include_the_lower_ones() {
        let operator = Operator { name: "ci".into(), scope: Scope::Operate };
        assert_eq!((operator.require(Scope::Read), operator.require(Scope::Operate)), (Ok(()), Ok(())));
        assert_eq!(operator.require(Scope::Admin).expect_err("too little").status(), StatusCode::FORBIDDEN);
    }
}
