//! Sessions in a Redis that all servers share.

use std::fmt;
use std::time::Duration;

use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{AsyncCommands, Client, RedisError, pipe};
use tokio::sync::OnceCell;

use super::super::logins::Login;

/// A server must not wait for long: whoever asked has a deadline too.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long an idle session is kept, in seconds.
const IDLE: i64 = 3600;

/// The connection to it, made with the first request and again whenever it breaks.
pub struct Store {
    client: Client,
    connection: OnceCell<ConnectionManager>,
}

/// The store does not answer.
#[derive(Debug)]
pub struct StoreError(RedisError);

impl Store {
    /// Nothing is connected yet.
    pub fn new(client: Client) -> Self {
        Self { client, connection: OnceCell::new() }
    }

    /// Begins a session.
    ///
    /// # Errors
    /// No answer.
    pub async fn begin(&self, id: &str, login: &Login) -> Result<(), StoreError> {
        let key = key(id);
        let mut begin = pipe();
        begin.atomic().hset(&key, "user", &login.user).ignore().hset(&key, "visits", login.visits).ignore();
        begin.expire(&key, IDLE).ignore();
        Ok(begin.query_async(&mut self.connection().await?).await?)
    }

    /// Counts a visit.
    ///
    /// # Errors
    /// No answer.
    pub async fn visit(&self, id: &str) -> Result<Option<Login>, StoreError> {
        let key = key(id);
        let mut connection = self.connection().await?;
        let user: Option<String> = connection.hget(&key, "user").await?;
        let Some(user) = user else { return Ok(None) };
        // A session that ended in between comes back without its user, which is as good as none.
        let mut count = pipe();
        count.atomic().hincr(&key, "visits", 1).expire(&key, IDLE).ignore();
        let (visits,) = count.query_async(&mut connection).await?;
        Ok(Some(Login { user, visits }))
    }

    /// Ends a session.
    ///
    /// # Errors
    /// No answer.
    pub async fn end(&self, id: &str) -> Result<(), StoreError> {
        Ok(self.connection().await?.del(key(id)).await?)
    }

    async fn connection(&self) -> Result<ConnectionManager, StoreError> {
        let connect = async || {
            let config = ConnectionManagerConfig::new()
                .set_number_of_retries(0)
                .set_connection_timeout(Some(PATIENCE))
                .set_response_timeout(Some(PATIENCE));
            ConnectionManager::new_lazy_with_config(self.client.clone(), config)
        };
        let mut connection = self.connection.get_or_try_init(connect).await?.clone();
        // A broken connection is replaced only after something has failed on it: that must not be a visitor's request.
        match connection.ping::<()>().await {
            Err(error) if !error.is_timeout() => connection.ping::<()>().await?,
            answered => answered?,
        }
        Ok(connection)
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Store").field(&self.client).finish()
    }
}

impl From<RedisError> for StoreError {
    fn from(source: RedisError) -> Self {
        Self(source)
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the session store does not answer")
    }
}

impl std::error::Error for StoreError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}

fn key(id: &str) -> String {
    format!("session_app:{id}")
}
