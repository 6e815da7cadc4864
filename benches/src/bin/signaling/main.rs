//! The signaling server's raw figures, and those of PeerJS and a bare `ws` relay, taken by the same clients in the
//! same run. Each server is a process of its own on one core; the clients have the others.
#![forbid(unsafe_code)]

mod clock;
mod cluster;
mod crowd;
mod dialect;
mod instructions;
mod node;
mod server;
mod storm;
mod websocket;

use std::{error::Error, path::Path, process::Command, sync::Arc, time::Duration};

use clap::{Parser, ValueEnum};
use roundtable_benches::print_figure;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use rustls::{ClientConfig, RootCertStore};
use tokio_rustls::TlsConnector;

use crate::{
    crowd::{Load, to_f64},
    dialect::Dialect,
    server::Server,
};

/// Idle clients.
const IDLE: usize = 5000;
/// What each server relays.
const TALK: Load = Load {
    clients: 1000,
    rate: 10_000,
    time: Duration::from_secs(5),
};
/// What two servers of a cluster relay to one another.
const CROSS_TALK: Load = Load {
    clients: 100,
    rate: 1000,
    time: Duration::from_secs(5),
};
/// Peers that join at once, ten to a room.
const STORM: usize = 10_000;

/// What can be measured by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// Memory of an idle connection, bare and with TLS.
    Memory,
    /// Instructions and system calls of a message.
    Instructions,
    /// Processor time of a message, and how long it takes.
    Relay,
    /// Ten thousand who join at once.
    Storm,
    /// Two servers over NATS.
    Cluster,
    /// The other systems.
    Peers,
}

/// What depends on nothing else that the machine does.
const QUICK: [Part; 2] = [Part::Memory, Part::Instructions];

#[derive(clap::Parser)]
struct Args {
    /// What to measure; everything if nothing is named.
    parts: Vec<Part>,
    /// Measure what depends on nothing else that the machine does: memory and instructions.
    #[arg(long, conflicts_with = "parts")]
    quick: bool,
}

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let Args { parts, quick } = Args::parse();
    let parts = match (quick, &*parts) {
        (true, _) => &QUICK,
        (false, []) => Part::value_variants(),
        (false, parts) => parts,
    };
    build_server()?;
    raise_file_limit()?;
    server::leave_its_core();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(measure(parts))
}

async fn measure(parts: &[Part]) -> Result<()> {
    for part in parts {
        eprintln!("    {part:?}");
        match part {
            Part::Memory => memory().await?,
            Part::Instructions => instructions().await?,
            Part::Relay => relay().await?,
            Part::Storm => storm().await?,
            Part::Cluster => two_servers().await?,
            Part::Peers => peers().await?,
        }
    }
    Ok(())
}

async fn memory() -> Result<()> {
    let server = Server::ours(Dialect::Roundtable, &["--open"])?;
    let idle = crowd::idle_bytes(&server, None, IDLE).await?;
    print_figure("idle_bytes_per_conn", idle, "B");
    drop(server);
    print_figure("idle_bytes_per_conn_tls", idle_with_tls().await?, "B");
    Ok(())
}

async fn instructions() -> Result<()> {
    if let Some(cost) = instructions::of_a_message().await? {
        print_figure("instructions_per_message", cost.instructions, "");
        print_figure("system_calls_per_message", cost.system_calls, "");
    }
    Ok(())
}

async fn relay() -> Result<()> {
    let servers = [Server::ours(Dialect::Roundtable, &["--open"])?];
    let relayed = crowd::relay(&servers, TALK).await?;
    print_figure("cpu_us_per_message", relayed.cpu_us, "µs");
    print_figure("relay_p50_ms", relayed.p50_ms, "ms");
    print_figure("relay_p99_ms", relayed.p99_ms, "ms");
    drop(servers);
    let servers = [Server::ours(Dialect::RoundtableAnswered, &["--open"])?];
    let relayed = crowd::relay(&servers, TALK).await?;
    print_figure("cpu_us_per_answered_message", relayed.cpu_us, "µs");
    Ok(())
}

async fn peers() -> Result<()> {
    if let Some(folder) = node::install()? {
        node(&folder, "peerjs", Dialect::PeerJs).await?;
        node(&folder, "relay", Dialect::Relay).await?;
    }
    Ok(())
}

async fn idle_with_tls() -> Result<f64> {
    let made = rcgen::generate_simple_self_signed(["localhost".into()])?;
    let folder = tempfile::tempdir()?;
    let files = ["cert.pem", "key.pem"].map(|file| folder.path().join(file));
    std::fs::write(&files[0], made.cert.pem())?;
    std::fs::write(&files[1], made.signing_key.serialize_pem())?;
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.into())?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let tls = TlsConnector::from(Arc::new(config));
    let [cert, key] = files.each_ref().map(|file| file.to_string_lossy());
    let server = Server::ours(
        Dialect::Roundtable,
        &["--open", "--tls-cert", &cert, "--tls-key", &key],
    )?;
    Ok(crowd::idle_bytes(&server, Some(&tls), IDLE).await?)
}

async fn two_servers() -> Result<()> {
    let store = tempfile::tempdir()?;
    if let Some(cluster) = cluster::start(store.path()).await? {
        let relayed = crowd::relay(&cluster.servers, CROSS_TALK).await?;
        print_figure("cross_node_p50_ms", relayed.p50_ms, "ms");
        print_figure("cross_node_p99_ms", relayed.p99_ms, "ms");
    }
    Ok(())
}

async fn storm() -> Result<()> {
    let data = tempfile::tempdir()?;
    let path = data.path().to_string_lossy();
    let server = Server::ours(Dialect::Roundtable, &["--data", &path])?;
    let storm = storm::run(&server, data.path(), STORM).await?;
    print_figure("storm_10k_s", storm.seconds, "s");
    print_figure("storm_failed", to_f64(storm.failed), "peers");
    print_figure(
        "rooms_1000x10_ok",
        f64::from(u8::from(storm.offers == STORM)),
        "yes",
    );
    Ok(())
}

async fn node(folder: &Path, name: &str, dialect: Dialect) -> Result<()> {
    let script = format!("{name}.cjs");
    let server = Server::node(dialect, folder, &script)?;
    let idle = crowd::idle_bytes(&server, None, IDLE).await?;
    print_figure(&format!("{name}_idle_bytes_per_conn"), idle, "B");
    drop(server);
    let servers = [Server::node(dialect, folder, &script)?];
    let relayed = crowd::relay(&servers, TALK).await?;
    print_figure(&format!("{name}_cpu_us_per_message"), relayed.cpu_us, "µs");
    print_figure(&format!("{name}_relay_p99_ms"), relayed.p99_ms, "ms");
    Ok(())
}

/// The real server, in release, beside this program.
fn build_server() -> Result<()> {
    let own = std::env::current_exe()?;
    let target = own
        .ancestors()
        .nth(2)
        .ok_or("this program is not in a target folder")?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args([
        "build",
        "--quiet",
        "--release",
        "--bin",
        "roundtable",
        "--package",
        "roundtable-cli",
    ]);
    command
        .arg("--manifest-path")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.toml"));
    match command.arg("--target-dir").arg(target).status()?.success() {
        true => Ok(()),
        false => Err("the server does not build".into()),
    }
}

/// A storm takes a file descriptor for each peer, on both sides; the servers inherit the limit.
fn raise_file_limit() -> Result<()> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: maximum,
            maximum,
        },
    )?;
    if maximum.is_some_and(|maximum| maximum < STORM as u64 + 100) {
        return Err(format!(
            "{STORM} connections need a higher limit of open files: raise `ulimit -Hn`"
        )
        .into());
    }
    Ok(())
}
