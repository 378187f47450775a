//! Who may look: one-time links that open sessions.
//!
//! What always holds: a link opens one session, by a request that only a person's click makes, since programs follow
//! links to preview them. Of links and sessions the database holds hashes only. A session ends [`SESSION_S`] after it
//! began, or [`IDLE_S`] after its last page.
//!
//! If power dies: that a link was used is synced before anybody gets its session.

use crate::store::{Scope, Store, StoreError, query};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use sedge_protocol::Sha256Digest;
use sedge_protocol::time::UnixSeconds;
use std::fmt;

/// Life of a link.
pub const LINK_S: i64 = 15 * 60;
/// Life of a session.
pub const SESSION_S: i64 = 12 * 3600;
/// Life of a session that nobody uses.
pub const IDLE_S: i64 = 2 * 3600;
/// How long a link is remembered after its end.
const LINK_MEMORY_S: i64 = 86_400;
/// Links that are remembered; a script that runs wild makes no more.
const LINKS_MAX: i64 = 1_000;
/// Sessions at once; the one that was not used for the longest time ends for a new one.
const SESSIONS_MAX: i64 = 1_000;
/// The use of a session is written down at most this often.
const LAST_USED_STEP_S: i64 = 60;
const SECRET_BYTES: usize = 32;
/// Characters of a secret in base64.
const SECRET_LENGTH: usize = 43;

/// Why nobody is signed in.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The system gave no random bytes.
    #[error("the system gives no random bytes")]
    Random(#[source] getrandom::Error),
    /// Too many links.
    #[error("{LINKS_MAX} login links were made within a day; use one of them, or wait until they are forgotten")]
    TooMany,
}

/// Why a link opens nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkRefusal {
    /// There is no such link.
    Unknown,
    /// It has opened a session before.
    Used,
    /// Its time is over.
    Expired,
}

/// A link that signs in whoever opens it first. It prints without its secret.
pub struct LoginLink {
    url: String,
    /// Its end.
    pub expires_at: UnixSeconds,
}

impl LoginLink {
    /// The address, once.
    pub fn reveal(&self) -> &str {
        &self.url
    }
}

impl fmt::Debug for LoginLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoginLink").field("expires_at", &self.expires_at).finish_non_exhaustive()
    }
}

/// Somebody who is signed in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// Who made the link, for the audit.
    pub name: String,
    /// What it allows.
    pub scope: Scope,
}

/// 32 random bytes in base64. It does not print.
pub(super) struct Secret(String);

impl Secret {
    fn generate() -> Result<Self, LoginError> {
        let mut secret = [0; SECRET_BYTES];
        getrandom::fill(&mut secret).map_err(LoginError::Random)?;
        Ok(Self(BASE64_URL_SAFE_NO_PAD.encode(secret)))
    }

    /// What a request shows, if it can be a secret at all.
    pub(super) fn from_request(text: &str) -> Option<Self> {
        let is_base64 = |c: u8| c.is_ascii_alphanumeric() || c == b'-' || c == b'_';
        (text.len() == SECRET_LENGTH && text.bytes().all(is_base64)).then(|| Self(text.to_owned()))
    }

    pub(super) fn reveal(&self) -> &str {
        &self.0
    }

    fn hash(&self) -> Sha256Digest {
        Sha256Digest::of(self.0.as_bytes())
    }

    /// What forms of this session carry: it cannot be guessed without the cookie, and tells nothing about it.
    pub(super) fn form_token(&self) -> String {
        let token = Sha256Digest::of(format!("sedge form token {}", self.0).as_bytes());
        BASE64_URL_SAFE_NO_PAD.encode(token.as_bytes())
    }
}

/// Links and sessions.
#[derive(Debug, Clone)]
pub struct Login {
    store: Store,
    host: String,
}

impl Login {
    /// For a server that people reach as `host`, `name:port`.
    pub fn new(store: Store, host: String) -> Self {
        Self { store, host }
    }

    /// Makes a link. `name` says who asked for it.
    ///
    /// # Errors
    /// [`LoginError`].
    pub async fn issue_link(&self, name: &str, scope: Scope, now: UnixSeconds) -> Result<LoginLink, LoginError> {
        const WHAT: &str = "keep a login link";
        self.prune(now).await?;
        let secret = Secret::generate()?;
        let expires_at = now.plus(LINK_S);
        let insert = "INSERT INTO console_link (hash, name, scope, created_at, expires_at) SELECT ?, ?, ?, ?, ? \
                      WHERE ? > (SELECT count(*) FROM console_link)";
        let done = sqlx::query(insert)
            .bind(&secret.hash().as_bytes()[..])
            .bind(name)
            .bind(scope.as_str())
            .bind(now.0)
            .bind(expires_at.0)
            .bind(LINKS_MAX)
            .execute(self.store.pool())
            .await
            .map_err(query(WHAT))?;
        if done.rows_affected() != 1 {
            return Err(LoginError::TooMany);
        }
        let url = format!("https://{}/login/{}", self.host, secret.reveal());
        Ok(LoginLink { url, expires_at })
    }

    /// Whether a link would open a session now. It changes nothing.
    pub(super) async fn look(&self, link: &Secret, now: UnixSeconds) -> Result<Result<(), LinkRefusal>, StoreError> {
        let row: Option<(i64, Option<i64>)> =
            sqlx::query_as("SELECT expires_at, used_at FROM console_link WHERE hash = ?")
                .bind(&link.hash().as_bytes()[..])
                .fetch_optional(self.store.pool())
                .await
                .map_err(query("look up a login link"))?;
        Ok(match row {
            None => Err(LinkRefusal::Unknown),
            Some((_, Some(_))) => Err(LinkRefusal::Used),
            Some((expires_at, None)) if expires_at <= now.0 => Err(LinkRefusal::Expired),
            Some(_) => Ok(()),
        })
    }

    /// Uses a link up and opens a session; of any number of requests at once, one succeeds.
    pub(super) async fn redeem(
        &self,
        link: &Secret,
        now: UnixSeconds,
    ) -> Result<Result<(Secret, Session), LinkRefusal>, LoginError> {
        const WHAT: &str = "open a session";
        let secret = Secret::generate()?;
        let mut tx = self.store.synced().begin_with("BEGIN IMMEDIATE").await.map_err(query(WHAT))?;
        let take = "UPDATE console_link SET used_at = ?1 WHERE hash = ?2 AND used_at IS NULL AND expires_at > ?1 \
                    RETURNING name, scope";
        let taken: Option<(String, String)> = sqlx::query_as(take)
            .bind(now.0)
            .bind(&link.hash().as_bytes()[..])
            .fetch_optional(&mut *tx)
            .await
            .map_err(query(WHAT))?;
        let Some((name, scope)) = taken else {
            drop(tx);
            // Between the two another request may have used it up: then that is the reason.
            return Ok(Err(self.look(link, now).await?.err().unwrap_or(LinkRefusal::Used)));
        };
        let session = Session { name, scope: scope_of(&scope)? };
        sqlx::query("INSERT INTO console_session VALUES (?, ?, ?, ?, ?, ?)")
            .bind(&secret.hash().as_bytes()[..])
            .bind(&session.name)
            .bind(session.scope.as_str())
            .bind(now.0)
            .bind(now.plus(SESSION_S).0)
            .bind(now.0)
            .execute(&mut *tx)
            .await
            .map_err(query(WHAT))?;
        let bound = "DELETE FROM console_session WHERE hash IN \
                     (SELECT hash FROM console_session ORDER BY last_used DESC, created_at DESC LIMIT -1 OFFSET ?)";
        sqlx::query(bound).bind(SESSIONS_MAX).execute(&mut *tx).await.map_err(query(WHAT))?;
        tx.commit().await.map_err(query(WHAT))?;
        Ok(Ok((secret, session)))
    }

    /// The session of a cookie. `used` is true when a person asked, not a page that refreshes itself.
    pub(super) async fn session(
        &self,
        cookie: &Secret,
        used: bool,
        now: UnixSeconds,
    ) -> Result<Option<Session>, StoreError> {
        const WHAT: &str = "look up a session";
        let select = "SELECT name, scope, last_used FROM console_session \
                      WHERE hash = ? AND expires_at > ? AND last_used > ?";
        let row: Option<(String, String, i64)> = sqlx::query_as(select)
            .bind(&cookie.hash().as_bytes()[..])
            .bind(now.0)
            .bind(now.plus(-IDLE_S).0)
            .fetch_optional(self.store.pool())
            .await
            .map_err(query(WHAT))?;
        let Some((name, scope, last_used)) = row else { return Ok(None) };
        if used && UnixSeconds(last_used).plus(LAST_USED_STEP_S) <= now {
            sqlx::query("UPDATE console_session SET last_used = ? WHERE hash = ?")
                .bind(now.0)
                .bind(&cookie.hash().as_bytes()[..])
                .execute(self.store.pool())
                .await
                .map_err(query(WHAT))?;
        }
        Ok(Some(Session { name, scope: scope_of(&scope)? }))
    }

    /// Ends a session.
    pub(super) async fn sign_out(&self, cookie: &Secret) -> Result<(), StoreError> {
        sqlx::query("DELETE FROM console_session WHERE hash = ?")
            .bind(&cookie.hash().as_bytes()[..])
            .execute(self.store.synced())
            .await
            .map(drop)
            .map_err(query("end a session"))
    }

    async fn prune(&self, now: UnixSeconds) -> Result<(), StoreError> {
        for (sql, before) in [
            ("DELETE FROM console_link WHERE expires_at < ?", now.plus(-LINK_MEMORY_S)),
            ("DELETE FROM console_session WHERE expires_at < ?", now),
        ] {
            let step = sqlx::query(sql).bind(before.0).execute(self.store.pool());
            step.await.map_err(query("forget old login links and sessions"))?;
        }
        Ok(())
    }
}

fn scope_of(word: &str) -> Result<Scope, StoreError> {
    Scope::from_word(word).ok_or(StoreError::Damaged { what: "scope" })
}

#[cfg(test)]
mod tests;
