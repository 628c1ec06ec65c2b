//! Accepts local connections, learns who calls, and answers.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::extract::connect_info::Connected;
use axum::extract::{ConnectInfo, Path as UrlPath, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::serve::IncomingStream;
use axum::{Json, Router};
use tokio::net::{UnixListener, UnixStream};

use super::region::{RegionReply, RegionRequest, RegionState};
use super::types::*;
use crate::daemon::{Caller, Daemon, Refusal, describe};

/// Requests larger than this are refused; an environment may be large.
const MAX_REQUEST_BYTES: usize = 8 << 20;
/// How long requests under way are answered when the daemon stops.
const LAST_ANSWERS: Duration = Duration::from_secs(3);

/// Who is at the other end of a local connection, as the kernel says.
#[derive(Debug, Clone, Copy)]
pub struct Peer {
    uid: Option<u32>,
    gid: Option<u32>,
}

impl Connected<IncomingStream<'_, UnixListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Self {
        peer_of(stream.io())
    }
}

fn peer_of(stream: &UnixStream) -> Peer {
    let credentials = stream.peer_cred().ok();
    Peer { uid: credentials.map(|c| c.uid()), gid: credentials.map(|c| c.gid()) }
}

impl Peer {
    fn caller(self) -> Result<Caller, Refusal> {
        match (self.uid, self.gid) {
            (Some(uid), Some(gid)) => Ok(Caller { uid, gid }),
            _ => Err(Refusal::failed("the kernel does not say who is calling")),
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = if self.usage { StatusCode::BAD_REQUEST } else { StatusCode::CONFLICT };
        (status, Json(ErrorReply { error: self.line, usage: self.usage })).into_response()
    }
}

type Answer<T> = Result<Json<T>, Refusal>;
type Node = State<Arc<Daemon>>;
type From = ConnectInfo<Peer>;

/// Binds the socket. Everybody may connect; what a caller may do depends on who it is.
pub fn bind(socket: &Path) -> anyhow::Result<UnixListener> {
    let _ = std::fs::remove_file(socket);
    let listener = UnixListener::bind(socket)
        .with_context(|| format!("cannot listen at {}", socket.display()))?;
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o666))?;
    Ok(listener)
}

/// Answers until the daemon stops.
pub async fn serve(daemon: Arc<Daemon>, listener: UnixListener) -> anyhow::Result<()> {
    let (stop, stopping) = (daemon.stopping(), daemon.stopping());
    let router = Router::new()
        .route("/v1/up", get(joined).post(up))
        .route("/v1/policy", get(policy).post(decree))
        .route("/v1/policy/history", get(policy_history))
        .route("/v1/vos", get(vos).post(change_vo))
        .route("/v1/requests", get(requests))
        .route("/v1/requests/accept", post(accept))
        .route("/v1/requests/deny", post(deny))
        .route("/v1/delegates", post(delegate))
        .route("/v1/nodes/{node}/remove", post(remove))
        .route("/v1/down", post(down))
        .route("/v1/invite", post(invite))
        .route("/v1/leave", post(leave))
        .route("/v1/nodes", get(nodes))
        .route("/v1/subgrid", get(subgrid))
        .route("/v1/region", get(region))
        .route("/v1/region/{what}", post(region_change))
        .route("/v1/site/{what}", post(site_change))
        .route("/v1/find", get(find))
        .route("/v1/query", post(query))
        .route("/v1/why", post(why))
        .route("/v1/qos", get(qos_state).post(qos_switch))
        .route("/v1/apps", get(apps).post(run))
        .route("/v1/apps/{app}", get(app))
        .route("/v1/apps/{app}/explain", get(explain))
        .route("/v1/apps/{app}/log", get(log))
        .route("/v1/apps/{app}/migrate", post(migrate))
        .route("/v1/apps/{app}/kill", post(kill))
        .layer(axum::extract::DefaultBodyLimit::max(MAX_REQUEST_BYTES))
        .with_state(daemon);
    answer(router, listener, stop, stopping).await
}

/// Answers until told to stop by both; a request that never comes to its end is not waited for.
async fn answer(
    router: Router,
    listener: UnixListener,
    stop: impl Future<Output = ()> + Send + 'static,
    stopping: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let served = axum::serve(listener, router.into_make_service_with_connect_info::<Peer>())
        .with_graceful_shutdown(stop);
    let late = async {
        stopping.await;
        tokio::time::sleep(LAST_ANSWERS).await;
    };
    tokio::select! {
        served = served => served.context("the local API ended"),
        () = late => {
            tracing::info!("a local request was not done within {LAST_ANSWERS:?} and is left");
            Ok(())
        }
    }
}

async fn up(node: Node, from: From, body: Json<UpRequest>) -> Answer<UpReply> {
    from.caller()?.must_be_admin("change what this node is a member of")?;
    Ok(Json(node.0.up(body.0).await?))
}

async fn joined(node: Node) -> Answer<UpReply> {
    Ok(Json(node.joined().await?))
}

async fn policy(node: Node) -> Answer<PolicyRow> {
    Ok(Json(node.policy_row()?))
}

async fn policy_history(node: Node) -> Answer<Vec<PolicyRow>> {
    Ok(Json(node.policy_history().await?))
}

async fn decree(node: Node, from: From, body: Json<PolicyRequest>) -> Answer<PolicyRow> {
    from.caller()?.must_be_admin("set the sub-grid's policy")?;
    Ok(Json(node.decree(body.0).await?))
}

async fn vos(node: Node, query: Query<VosQuery>) -> Answer<Vec<VoRow>> {
    Ok(Json(node.vo_rows(query.name.as_deref())?))
}

async fn change_vo(node: Node, from: From, body: Json<VoRequest>) -> Answer<Option<VoRow>> {
    from.caller()?.must_be_admin("say who is in a virtual organisation")?;
    Ok(Json(node.change_vo(body.0).await?))
}

async fn requests(node: Node) -> Answer<Vec<RequestRow>> {
    Ok(Json(node.requests()?))
}

async fn accept(node: Node, from: From, body: Json<CodeRequest>) -> Answer<AcceptReply> {
    from.caller()?.must_be_admin("let others in")?;
    Ok(Json(node.accept(body.0).await?))
}

async fn deny(node: Node, from: From, body: Json<CodeRequest>) -> Answer<AcceptReply> {
    from.caller()?.must_be_admin("turn others away")?;
    Ok(Json(node.deny(body.0)?))
}

async fn delegate(node: Node, from: From, body: Json<DelegateRequest>) -> Answer<AcceptReply> {
    from.caller()?.must_be_admin("say who may let others in")?;
    Ok(Json(node.delegate(body.0).await?))
}

async fn remove(node: Node, from: From, member: UrlPath<String>) -> Answer<AcceptReply> {
    from.caller()?.must_be_admin("remove members")?;
    Ok(Json(node.remove(&member).await?))
}

async fn down(node: Node, from: From) -> Answer<()> {
    from.caller()?.must_be_admin("stop the daemon")?;
    node.stop();
    Ok(Json(()))
}

async fn invite(node: Node, from: From, body: Json<InviteRequest>) -> Answer<InviteReply> {
    from.caller()?.must_be_admin("invite")?;
    Ok(Json(node.invite(body.0).await?))
}

async fn leave(node: Node, from: From) -> Answer<()> {
    from.caller()?.must_be_admin("change what this node is a member of")?;
    Ok(Json(node.leave().await?))
}

async fn nodes(node: Node, query: Query<NodesQuery>) -> Answer<Vec<NodeRow>> {
    let vo = query.vo.as_deref().map(|vo| node.nodes_of_vo(vo)).transpose()?;
    let mut rows = node.nodes().await?;
    rows.retain(|row| vo.as_ref().is_none_or(|vo| vo.contains(&row.node)));
    Ok(Json(match &query.of_which {
        Some(text) => describe::of_which(rows, text)?,
        None => rows,
    }))
}

async fn subgrid(node: Node) -> Answer<SubgridState> {
    let mut state = node.subgrid_state()?;
    state.follows = node.follow_rows().await;
    Ok(Json(state))
}

async fn region(node: Node) -> Answer<RegionState> {
    Ok(Json(node.region_state().await?))
}

async fn region_change(
    node: Node,
    from: From,
    what: UrlPath<String>,
    body: Json<RegionRequest>,
) -> Answer<RegionReply> {
    from.caller()?.must_be_admin("change a region")?;
    Ok(Json(match what.as_str() {
        "init" => node.region_init(body.0).await?,
        "admit" => node.region_admit(body.0).await?,
        "peer" => node.region_peer(body.0).await?,
        "rotate" => node.region_rotate(body.0).await?,
        other => return Err(unknown(other)),
    }))
}

async fn site_change(
    node: Node,
    from: From,
    what: UrlPath<String>,
    body: Json<RegionRequest>,
) -> Answer<RegionReply> {
    from.caller()?.must_be_admin("change which region the sub-grid belongs to")?;
    Ok(Json(match what.as_str() {
        "register" => node.site_register(body.0).await?,
        "remove" => node.site_remove(body.0).await?,
        other => return Err(unknown(other)),
    }))
}

fn unknown(what: &str) -> Refusal {
    Refusal::usage(format!("the daemon knows no `{what}`; is it older than the command line?"))
}

async fn find(node: Node, query: Query<FindQuery>) -> Answer<FindReply> {
    let vo = query.vo.as_deref().map(|vo| node.nodes_of_vo(vo)).transpose()?;
    let mut reply = node.find(&query.of_which, query.within_ms).await?;
    reply.rows.retain(|row| vo.as_ref().is_none_or(|vo| vo.contains(&row.node)));
    Ok(Json(reply))
}

async fn query(node: Node, body: Json<QueryRequest>) -> Answer<QueryReply> {
    Ok(Json(node.query(body.0).await?))
}

async fn why(node: Node, from: From, body: Json<WhyRequest>) -> Answer<WhyReply> {
    let app = node.find_app(from.caller()?, &body.of);
    Ok(Json(node.why(app, body.0).await?))
}

async fn qos_state(node: Node) -> Answer<QosState> {
    Ok(Json(node.qos_state()))
}

async fn qos_switch(node: Node, from: From, body: Json<bool>) -> Answer<QosState> {
    from.caller()?.must_be_admin("switch the monitor")?;
    Ok(Json(node.qos_switch(body.0)?))
}

async fn apps(node: Node, from: From) -> Answer<Vec<AppRow>> {
    Ok(Json(node.app_rows(from.caller()?)))
}

async fn run(node: Node, from: From, body: Json<RunRequest>) -> Answer<RunReply> {
    Ok(Json(node.0.run(from.caller()?, body.0).await?))
}

async fn app(node: Node, from: From, app: UrlPath<String>) -> Answer<AppRow> {
    let caller = from.caller()?;
    let id = node.find_app(caller, &app)?;
    Ok(Json(node.app_row(id)?))
}

async fn explain(node: Node, from: From, app: UrlPath<String>) -> Answer<ExplainReply> {
    let id = node.find_app(from.caller()?, &app)?;
    Ok(Json(node.explain(id).await?))
}

async fn log(node: Node, from: From, app: UrlPath<String>) -> Answer<Vec<TimelineRow>> {
    let id = node.find_app(from.caller()?, &app)?;
    Ok(Json(node.timeline(id)?))
}

async fn migrate(
    node: Node,
    from: From,
    app: UrlPath<String>,
    body: Json<MigrateRequest>,
) -> Answer<MigrateReply> {
    let id = node.find_app(from.caller()?, &app)?;
    Ok(Json(node.0.migrate(id, body.0).await?))
}

async fn kill(node: Node, from: From, app: UrlPath<String>, body: Json<KillRequest>) -> Answer<()> {
    let id = node.find_app(from.caller()?, &app)?;
    Ok(Json(node.kill(id, body.0.signal.unwrap_or(libc::SIGTERM)).await?))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::time::{Instant, sleep, timeout};

    use super::*;

    async fn sent(socket: &Path, request: &str) -> UnixStream {
        let mut stream = UnixStream::connect(socket).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        stream
    }

    #[tokio::test]
    async fn a_request_that_never_ends_does_not_keep_the_daemon() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("api.sock");
        let slow = async || {
            sleep(Duration::from_secs(1)).await;
            "done"
        };
        let router =
            Router::new().route("/half", post(async |body: String| body)).route("/slow", get(slow));
        let listener = bind(&socket).unwrap();
        let stop = || sleep(Duration::from_millis(500));
        let served = tokio::spawn(answer(router, listener, stop(), stop()));
        let head = "POST /half HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nbegin";
        let _half = sent(&socket, head).await;
        let mut slow = sent(&socket, "GET /slow HTTP/1.1\r\nHost: x\r\n\r\n").await;
        let began = Instant::now();
        timeout(Duration::from_secs(10), served).await.unwrap().unwrap().unwrap();
        assert!(began.elapsed() >= LAST_ANSWERS, "{:?}", began.elapsed());
        let mut answer = String::new();
        let read = slow.read_to_string(&mut answer);
        timeout(Duration::from_secs(10), read).await.unwrap().unwrap();
        assert!(answer.ends_with("done"), "{answer}");
    }
}
