//! What a first start leaves: the project `default`, and, in files that only the owner can read, an API token and a link
//! that opens the console.

use super::StartError;
use crate::clock;
use crate::console::Login;
use crate::files;
use crate::http::ApiSecret;
use crate::store::{EdgeStore, NewApiToken, Scope};
use std::path::Path;

/// The file of the first API token.
pub const ADMIN_TOKEN_FILE: &str = "admin-token";
/// The file of the first login link.
pub const LOGIN_LINK_FILE: &str = "login-link";

/// Whether this is the first start.
pub(super) async fn start(store: &dyn EdgeStore, data: &Path) -> Result<bool, StartError> {
    if !store.api_tokens().await?.is_empty() {
        return Ok(false);
    }
    let now = clock::now();
    if let Ok(project) = "default".parse() {
        store.create_project(&project, now).await?;
    }
    let secret = ApiSecret::generate().map_err(StartError::Random)?;
    let path = data.join(ADMIN_TOKEN_FILE);
    // The file first: killed in between, the next start writes another one.
    files::write_private(&path, format!("{}\n", secret.reveal()).as_bytes())
        .map_err(|source| StartError::Data { path: path.clone(), source })?;
    let token = NewApiToken { hash: secret.hash(), name: "first-admin".into(), scope: Scope::Admin, expires_at: None };
    store.add_api_token(&token, now).await?;
    tracing::info!(file = %path.display(), "wrote the first API token; move it to a safe place");
    Ok(true)
}

/// Leaves a link to look at the console; killed before, somebody with an API token makes one.
pub(super) async fn login(login: &Login, data: &Path) -> Result<(), StartError> {
    let link = login.issue_link("first-admin", Scope::Read, clock::now()).await?;
    let path = data.join(LOGIN_LINK_FILE);
    files::write_private(&path, format!("{}\n", link.reveal()).as_bytes())
        .map_err(|source| StartError::Data { path: path.clone(), source })?;
    tracing::info!(file = %path.display(), until = %link.expires_at, "the console opens by the link in this file, once");
    Ok(())
}
