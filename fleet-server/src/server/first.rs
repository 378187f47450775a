//! What a first start leaves: the project `default`, and an API token in a file that only the owner can read.

use super::StartError;
use crate::clock;
use crate::files;
use crate::http::ApiSecret;
use crate::store::{EdgeStore, NewApiToken, Scope};
use std::path::Path;

/// The file of the first API token.
pub const ADMIN_TOKEN_FILE: &str = "admin-token";

pub(super) async fn start(store: &dyn EdgeStore, data: &Path) -> Result<(), StartError> {
    if !store.api_tokens().await?.is_empty() {
        return Ok(());
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
    Ok(())
}
