//! Links through real NATs: network namespaces, a router with nft in front of each peer, and a real
//! coturn between them. Needs root.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)] // helpers of tests, too

mod common;

use std::{
    fs::File,
    os::fd::AsFd,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread::JoinHandle,
    time::Duration,
};

use common::coturn::{PASSWORD, USER, has_tool, with_credentials};
use roundtable_core::{CandidateType, Channel, Frame, LinkPath};
use roundtable_transport::Link;
use roundtable_transport_webrtc::{
    ConnectError, Connecting, IceCandidate, IceServer, WebRtcConfig, WebRtcLink,
};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// The public address of coturn.
const SERVER: &str = "203.0.113.10";

/// What a router does with UDP.
#[derive(Clone, Copy)]
enum Nat {
    /// Keeps one public port for all destinations, and lets in whom the host has sent to.
    PortRestricted,
    /// Takes another public port for each destination.
    Symmetric,
    /// Lets no UDP out.
    TcpOnly,
}

/// Two hosts, each behind its router, and a server between; gone with the test.
struct Lab {
    name: String,
    coturn: Option<Child>,
}

/// Runs a command; whether it went well.
fn run(line: &str) -> bool {
    let mut words = line.split_whitespace();
    let output = Command::new(words.next().unwrap()).args(words).output();
    output.is_ok_and(|output| output.status.success())
}

/// What a command wrote.
fn said(line: &str) -> String {
    let mut words = line.split_whitespace();
    let output = Command::new(words.next().unwrap()).args(words).output();
    String::from_utf8(output.unwrap().stdout).unwrap()
}

fn must(line: &str) {
    assert!(run(line), "{line}");
}

impl Lab {
    /// `None` without root or the tools.
    fn with(nats: [Nat; 2]) -> Option<Self> {
        let tools = [("ip", "iproute2"), ("nft", "nftables")];
        let has = |(program, package): &(&str, &str)| has_tool(program, package);
        if !has_tool("turnserver", "coturn") || !tools.iter().all(has) {
            return None;
        }
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("rt{}-{number}", std::process::id());
        if !run(&format!("ip netns add {name}-net")) {
            eprintln!("SKIP: network namespaces need root");
            return None;
        }
        let mut lab = Self { name, coturn: None };
        for host in ["s", "r0", "h0", "r1", "h1"] {
            must(&format!("ip netns add {}", lab.of(host)));
        }
        for host in ["net", "s", "r0", "h0", "r1", "h1"] {
            must(&format!("ip -n {} link set lo up", lab.of(host)));
        }
        let net = lab.of("net");
        must(&format!("ip -n {net} link add bridge0 type bridge"));
        must(&format!("ip -n {net} link set bridge0 up"));
        lab.join("s", SERVER);
        for (index, nat) in nats.into_iter().enumerate() {
            lab.router(index, nat);
        }
        lab.start_coturn();
        Some(lab)
    }

    fn of(&self, host: &str) -> String {
        format!("{}-{host}", self.name)
    }

    /// Connects a host to the public network.
    fn join(&self, host: &str, address: &str) {
        let (net, host_ns) = (self.of("net"), self.of(host));
        must(&format!(
            "ip -n {net} link add {host} type veth peer name wan netns {host_ns}"
        ));
        must(&format!("ip -n {net} link set {host} master bridge0 up"));
        must(&format!("ip -n {host_ns} addr add {address}/24 dev wan"));
        must(&format!("ip -n {host_ns} link set wan up"));
    }

    /// A router, and the host behind it.
    fn router(&self, index: usize, nat: Nat) {
        let (r, h) = (self.of(&format!("r{index}")), self.of(&format!("h{index}")));
        self.join(&format!("r{index}"), &format!("203.0.113.{}", index + 1));
        must(&format!(
            "ip -n {h} link add eth type veth peer name lan netns {r}"
        ));
        must(&format!("ip -n {h} addr add 10.{index}.0.2/24 dev eth"));
        must(&format!("ip -n {r} addr add 10.{index}.0.1/24 dev lan"));
        must(&format!("ip -n {h} link set eth up"));
        must(&format!("ip -n {r} link set lan up"));
        must(&format!("ip -n {h} route add default via 10.{index}.0.1"));
        let inside = format!("ip netns exec {r}");
        must(&format!("{inside} sysctl -qw net.ipv4.ip_forward=1"));
        let outward = match nat {
            Nat::Symmetric => "masquerade fully-random",
            Nat::PortRestricted | Nat::TcpOnly => "masquerade",
        };
        let passes = match nat {
            Nat::TcpOnly => "drop",
            Nat::Symmetric | Nat::PortRestricted => "accept",
        };
        // Else the router itself answers early checks, and takes the port that the host's are to have.
        must(&format!(
            "{inside} nft table ip lab {{
                chain outward {{ type nat hook postrouting priority srcnat ; oifname wan {outward} ; }} ;
                chain unasked {{ type filter hook input priority filter ; iifname wan meta l4proto udp drop ; }} ;
                chain through {{ type filter hook forward priority filter ; meta l4proto udp {passes} ; }} ;
            }}"
        ));
    }

    /// Sends what is for private addresses nowhere: coturn ends an allocation whose packets have no route.
    fn swallow_the_rest(&self) {
        let s = self.of("s");
        must(&format!("ip -n {s} link add sink type bridge"));
        must(&format!("ip -n {s} addr add 192.0.2.1/24 dev sink"));
        must(&format!("ip -n {s} link set sink up"));
        must(&format!(
            "ip -n {s} neigh add 192.0.2.2 lladdr 02:00:00:00:00:01 dev sink"
        ));
        must(&format!("ip -n {s} route add default via 192.0.2.2"));
    }

    fn start_coturn(&mut self) {
        self.swallow_the_rest();
        let line = format!(
            "netns exec {} turnserver -n -L {SERVER} -E {SERVER} -r lab --lt-cred-mech --user {USER}:{PASSWORD} \
             --no-cli --no-tls --no-dtls --log-file stdout --pidfile /dev/null",
            self.of("s")
        );
        let coturn = Command::new("ip")
            .args(line.split_whitespace())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        self.coturn = Some(coturn.unwrap());
        let sockets = format!("ip netns exec {} cat /proc/net/udp", self.of("s"));
        let up = (0..100).any(|_| {
            std::thread::sleep(Duration::from_millis(50));
            said(&sockets).contains(":0D96 ") // 3478
        });
        assert!(up, "coturn does not listen");
    }

    /// Runs a peer on one of the hosts.
    fn on<T: Send + 'static, F: Future<Output = T>>(
        &self,
        host: usize,
        peer: impl FnOnce() -> F + Send + 'static,
    ) -> JoinHandle<T> {
        let namespace = File::open(format!("/run/netns/{}", self.of(&format!("h{host}"))));
        let namespace = namespace.unwrap();
        std::thread::spawn(move || {
            let network = Some(LinkNameSpaceType::Network);
            move_into_link_name_space(namespace.as_fd(), network).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            runtime.unwrap().block_on(peer())
        })
    }

    /// Makes a link between the hosts; by which kinds of address each end runs it.
    fn connect(&self, servers: Vec<IceServer>) -> [Result<LinkPath, ConnectError>; 2] {
        let (to_answerer, from_offerer) = unbounded_channel();
        let (to_offerer, from_answerer) = unbounded_channel();
        let config = WebRtcConfig::default().with_ice_servers(servers);
        let also = config.clone();
        let offerer = self.on(0, move || offer(config, to_answerer, from_answerer));
        let answerer = self.on(1, move || answer(also, to_offerer, from_offerer));
        [offerer.join().unwrap(), answerer.join().unwrap()]
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if let Some(coturn) = &mut self.coturn {
            let _ = coturn.kill();
            let _ = coturn.wait();
        }
        for host in ["net", "s", "r0", "h0", "r1", "h1"] {
            run(&format!("ip netns del {}", self.of(host)));
        }
    }
}

/// What signaling carries.
enum Signal {
    Description(String),
    Candidate(IceCandidate),
}

async fn offer(
    config: WebRtcConfig,
    to: UnboundedSender<Signal>,
    from: UnboundedReceiver<Signal>,
) -> Result<LinkPath, ConnectError> {
    let (connecting, sdp) = Connecting::offer(&config).await?;
    to.send(Signal::Description(sdp)).unwrap();
    open(connecting, to, from).await
}

async fn answer(
    config: WebRtcConfig,
    to: UnboundedSender<Signal>,
    mut from: UnboundedReceiver<Signal>,
) -> Result<LinkPath, ConnectError> {
    let Some(Signal::Description(sdp)) = from.recv().await else {
        return Err(ConnectError::Abandoned);
    };
    let (connecting, sdp) = Connecting::answer(&config, &sdp).await?;
    to.send(Signal::Description(sdp)).unwrap();
    open(connecting, to, from).await
}

async fn open(
    connecting: Connecting,
    to: UnboundedSender<Signal>,
    mut from: UnboundedReceiver<Signal>,
) -> Result<LinkPath, ConnectError> {
    let out = async {
        while let Some(candidate) = connecting.next_candidate().await {
            // The other end may have its link, and be gone.
            let _ = to.send(Signal::Candidate(candidate));
        }
        std::future::pending::<()>().await;
    };
    let into = async {
        while let Some(signal) = from.recv().await {
            match signal {
                Signal::Description(sdp) => connecting.accept_answer(&sdp).await?,
                Signal::Candidate(candidate) => {
                    connecting.add_remote_candidate(&candidate).unwrap();
                }
            }
        }
        std::future::pending::<Result<(), ConnectError>>().await
    };
    tokio::select! {
        link = connecting.clone().opened() => greet(link?).await,
        () = out => unreachable!(),
        failed = into => failed.and(Err(ConnectError::Abandoned)),
    }
}

/// A message each way, so that both know that the link works.
async fn greet(link: WebRtcLink) -> Result<LinkPath, ConnectError> {
    let hello = Frame::text(Channel::App, "hello");
    link.send(hello.clone()).await.unwrap();
    assert_eq!(link.recv().await, Ok(hello));
    let path = link.stats().path.unwrap();
    // The other end may still wait for its own.
    let _ = tokio::time::timeout(Duration::from_secs(1), link.recv()).await;
    Ok(path)
}

fn stun() -> IceServer {
    IceServer {
        urls: vec![format!("stun:{SERVER}")],
        username: None,
        credential: None,
    }
}

fn turn(transport: &str) -> IceServer {
    let url = format!("turn:{SERVER}?transport={transport}");
    with_credentials(url, PASSWORD)
}

fn ends(paths: [Result<LinkPath, ConnectError>; 2]) -> Vec<CandidateType> {
    let paths = paths.map(Result::unwrap);
    paths
        .iter()
        .flat_map(|path| [path.local, path.remote])
        .collect()
}

#[test]
fn webrtc_establishes_connection_via_stun() {
    let Some(lab) = Lab::with([Nat::PortRestricted; 2]) else {
        return;
    };
    for end in ends(lab.connect(vec![stun()])) {
        assert!(
            !matches!(end, CandidateType::Relay),
            "no relay is configured: {end:?}"
        );
    }
    let without = lab.connect(vec![]);
    assert!(without.iter().all(Result::is_err), "{without:?}");
}

#[test]
fn webrtc_falls_back_to_turn_behind_symmetric_nat() {
    let Some(lab) = Lab::with([Nat::Symmetric; 2]) else {
        return;
    };
    let ends = ends(lab.connect(vec![stun(), turn("udp")]));
    assert!(ends.contains(&CandidateType::Relay), "{ends:?}");
}

#[test]
fn one_symmetric_nat_is_enough_to_need_turn() {
    let Some(lab) = Lab::with([Nat::PortRestricted, Nat::Symmetric]) else {
        return;
    };
    let ends = ends(lab.connect(vec![stun(), turn("udp")]));
    assert!(ends.contains(&CandidateType::Relay), "{ends:?}");
}

#[test]
fn a_network_without_udp_is_left_by_turn_over_tcp() {
    let Some(lab) = Lab::with([Nat::TcpOnly, Nat::PortRestricted]) else {
        return;
    };
    let servers = vec![stun(), turn("udp"), turn("tcp")];
    let [offerer, _] = lab.connect(servers);
    assert_eq!(offerer.unwrap().local, CandidateType::Relay);
}
