//! The HTTP interface to rooms, grants, keys and TURN credentials. What a closed server has, an open
//! one answers with 404.

use std::sync::Arc;

use axum::{
    Json, Router,
    body::{Bytes, to_bytes},
    extract::{Path, Query, Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post, put},
};
use roundtable_core::{PeerId, RoomId};
use roundtable_signaling_protocol::{MediaSet, Role};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::json;
use tokio::time::timeout;

use crate::{
    Shared,
    access::{Access, AccessError, Wish},
    clock,
    http::may_connect,
};

/// Largest request body in bytes.
const MAX_BODY_LEN: usize = 4096;

pub(crate) fn router() -> Router<Arc<Shared>> {
    Router::new()
        .route("/v1/rooms", post(create_room))
        .route("/v1/rooms/{room}", put(renew_room).delete(end_room))
        .route("/v1/rooms/{room}/grants", post(grant))
        .route("/v1/keys", post(rotate))
        .route("/v1/turn-credentials", get(turn_credentials))
}

/// What a caller is refused with.
#[derive(Debug, thiserror::Error)]
enum ApiError {
    #[error("this server is open: there are no rooms to make and no grants to get")]
    Open,
    #[error("this server knows no TURN server")]
    NoTurn,
    #[error("send the key or token as Authorization: Bearer …")]
    NoBearer,
    #[error("not the operator's key")]
    NotOperator,
    #[error(transparent)]
    Access(#[from] AccessError),
    #[error(transparent)]
    Grant(#[from] roundtable_signaling_protocol::GrantError),
    #[error("username must be the grant's peer_id")]
    OtherUser,
    #[error("the body must be the documented JSON object, of at most 4 KiB")]
    Body,
    #[error("the body did not come in time")]
    Slow,
    #[error("the server stops")]
    Stopping,
    #[error(
        "the cluster's other servers would refuse what a key signs that they do not know: \
         rotate in two steps, see \"Rotate keys\" in docs/guides/operate.md"
    )]
    Cluster,
}

impl ApiError {
    fn status(&self) -> StatusCode {
        match self {
            Self::Open | Self::NoTurn => StatusCode::NOT_FOUND,
            Self::NoBearer | Self::NotOperator | Self::Grant(_) => StatusCode::UNAUTHORIZED,
            Self::Access(AccessError::Forbidden | AccessError::Role(_)) | Self::OtherUser => {
                StatusCode::FORBIDDEN
            }
            Self::Access(AccessError::TooManyRooms) | Self::Stopping => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::Access(AccessError::Data(_)) => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Body => StatusCode::BAD_REQUEST,
            Self::Slow => StatusCode::REQUEST_TIMEOUT,
            Self::Cluster => StatusCode::CONFLICT,
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = self.status();
        let message = match &self {
            // Paths are the operator's business.
            Self::Access(AccessError::Data(error)) => {
                tracing::error!(%error, "the data directory fails");
                "the server's data directory fails: see its log".to_owned()
            }
            other => other.to_string(),
        };
        secret(status, json!({ "error": message })).into_response()
    }
}

/// An answer that no cache may keep.
fn secret<T>(
    status: StatusCode,
    body: T,
) -> (StatusCode, [(header::HeaderName, &'static str); 1], Json<T>) {
    (status, [(header::CACHE_CONTROL, "no-store")], Json(body))
}

fn access(shared: &Shared) -> Result<&Arc<Access>, ApiError> {
    shared.access.as_ref().ok_or(ApiError::Open)
}

fn bearer(headers: &HeaderMap) -> Result<&str, ApiError> {
    let value = headers
        .get(header::AUTHORIZATION)
        .ok_or(ApiError::NoBearer)?;
    let value = value.to_str().map_err(|_| ApiError::NoBearer)?;
    let (scheme, token) = value.split_once(' ').ok_or(ApiError::NoBearer)?;
    match scheme.eq_ignore_ascii_case("bearer") {
        true => Ok(token.trim()),
        false => Err(ApiError::NoBearer),
    }
}

fn operator<'a>(shared: &'a Shared, headers: &HeaderMap) -> Result<&'a Arc<Access>, ApiError> {
    let access = access(shared)?;
    match access.is_operator(bearer(headers)?) {
        true => Ok(access),
        false => Err(ApiError::NotOperator),
    }
}

/// Changes what is on the disk, which blocks, on a thread that may.
async fn change<T: Send + 'static>(
    access: &Arc<Access>,
    change: impl FnOnce(&Access) -> Result<T, AccessError> + Send + 'static,
) -> Result<T, ApiError> {
    let access = Arc::clone(access);
    let changed = tokio::task::spawn_blocking(move || change(&access)).await;
    Ok(changed.map_err(|_| ApiError::Stopping)??)
}

async fn body<T: DeserializeOwned>(shared: &Shared, request: Request) -> Result<T, ApiError> {
    let body = to_bytes(request.into_body(), MAX_BODY_LEN);
    let body = timeout(shared.config.header_timeout, body).await;
    let body: Bytes = body
        .map_err(|_| ApiError::Slow)?
        .map_err(|_| ApiError::Body)?;
    // Serde would read an array as a struct.
    if !body.trim_ascii_start().starts_with(b"{") {
        return Err(ApiError::Body);
    }
    serde_json::from_slice(&body).map_err(|_| ApiError::Body)
}

async fn create_room(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let access = operator(&shared, &headers)?;
    let room = change(access, |access| access.create_room(clock::wall())).await?;
    Ok(secret(StatusCode::CREATED, room).into_response())
}

/// A name that is none is a room that is not there.
fn room_id(room: &str) -> Result<RoomId, ApiError> {
    RoomId::new(room).map_err(|_| AccessError::Forbidden.into())
}

async fn renew_room(
    State(shared): State<Arc<Shared>>,
    Path(room): Path<String>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let (access, room) = (access(&shared)?, room_id(&room)?);
    let token = bearer(&headers)?.to_owned();
    let renewed = change(access, move |access| {
        access.renew_room(clock::wall(), &room, &token)
    });
    let expires_ms = renewed.await?;
    Ok(secret(StatusCode::OK, json!({ "expires_ms": expires_ms })).into_response())
}

async fn end_room(
    State(shared): State<Arc<Shared>>,
    Path(room): Path<String>,
    headers: HeaderMap,
) -> Result<StatusCode, ApiError> {
    let (access, room) = (access(&shared)?, room_id(&room)?);
    let token = bearer(&headers)?.to_owned();
    let ended = change(access, move |access| {
        access.end_room(clock::wall(), &room, &token)
    });
    ended.await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GrantRequest {
    peer_id: String,
    invite: Option<String>,
    creator_token: Option<String>,
    role: Option<Role>,
    can: Option<MediaSet>,
}

/// Answers pages of the cluster's other servers, too (CORS): they go on here when theirs stops.
async fn grant(
    State(shared): State<Arc<Shared>>,
    Path(room): Path<String>,
    request: Request,
) -> Response {
    let origin = request.headers().get(header::ORIGIN).cloned();
    let origin = origin.filter(|_| may_connect(request.headers(), &shared));
    let mut answer = exchange(&shared, &room, request).await.into_response();
    if let Some(origin) = origin {
        let headers = answer.headers_mut();
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(header::VARY, HeaderValue::from_static("Origin"));
    }
    answer
}

async fn exchange(
    shared: &Arc<Shared>,
    room: &str,
    request: Request,
) -> Result<Response, ApiError> {
    let access = access(shared)?;
    let request: GrantRequest = body(shared, request).await?;
    let secret_text = match (request.invite, request.creator_token) {
        (Some(secret), None) | (None, Some(secret)) => secret,
        _ => return Err(ApiError::Body),
    };
    let wish = Wish {
        peer_id: PeerId::new(&request.peer_id).map_err(|_| ApiError::Body)?,
        role: request.role,
        can: request.can,
    };
    let granted = access.grant(clock::wall(), &room_id(room)?, &secret_text, wish);
    let grant = granted.inspect_err(|_| shared.metrics.refused_grants.add(1))?;
    shared.metrics.grants.add(1);
    Ok(secret(StatusCode::CREATED, grant).into_response())
}

async fn rotate(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let access = operator(&shared, &headers)?;
    if shared.bus.is_shared() {
        return Err(ApiError::Cluster);
    }
    let id = change(access, Access::rotate).await?;
    Ok(secret(StatusCode::CREATED, json!({ "key_id": id })).into_response())
}

#[derive(Deserialize)]
struct TurnQuery {
    username: Option<String>,
}

async fn turn_credentials(
    State(shared): State<Arc<Shared>>,
    Query(query): Query<TurnQuery>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let access = access(&shared)?;
    let (grant, _) = access.verify(clock::wall(), bearer(&headers)?)?;
    let turn = shared.config.turn.as_ref().ok_or(ApiError::NoTurn)?;
    if query
        .username
        .is_some_and(|name| name != grant.peer_id.as_str())
    {
        return Err(ApiError::OtherUser);
    }
    let answer = turn.answer(clock::wall(), &grant.peer_id);
    Ok(secret(StatusCode::OK, answer).into_response())
}
