//! `roundtable doctor`: what works between this machine and others, and what to change.

use std::process::ExitCode;

use roundtable::{
    Invite, Room, RoomBuilder,
    doctor::{ConnectError, Diagnosis, LinkCheck, NatMapping, RelayCheck, RelayTransport},
};
use serde_json::{Value, json};

use crate::{args::Doctor, error::CliError};

/// Where the mends are written down.
const GUIDE: &str = "docs/guides/connectivity.md";

/// One thing that was checked.
struct Finding {
    what: String,
    verdict: Verdict,
}

enum Verdict {
    /// What was seen.
    Well(String),
    /// What would help somebody, somewhere.
    Note(String),
    /// What is wrong and how to mend it.
    Wrong(String),
}

use Verdict::{Note, Well, Wrong};

fn finding(what: impl Into<String>, verdict: Verdict) -> Finding {
    let what = what.into();
    Finding { what, verdict }
}

/// Checks and tells. Ends with 1 if something must be changed.
pub(crate) async fn run(args: Doctor) -> Result<ExitCode, CliError> {
    let diagnosis = builder(&args)?.diagnose().await?;
    let findings = findings(&diagnosis);
    let wrong = |finding: &Finding| matches!(finding.verdict, Wrong(_));
    let is_well = !findings.iter().any(wrong);
    if args.json {
        println!("{}", to_json(&findings, is_well));
    } else {
        for Finding { what, verdict } in &findings {
            match verdict {
                Well(seen) => println!("ok    {what}: {seen}"),
                Note(advice) => println!("note  {what}: {advice}"),
                Wrong(wrong) => println!("FAIL  {what}: {wrong}"),
            }
        }
        match is_well {
            true => println!("Peers can reach this machine, directly or through a relay."),
            false => println!("See {GUIDE} for what each message means."),
        }
    }
    Ok(ExitCode::from(u8::from(!is_well)))
}

fn builder(args: &Doctor) -> Result<RoomBuilder, CliError> {
    let server = args.server.as_deref().unwrap_or_default();
    let mut builder = Room::builder(server, &args.room, &args.name);
    if let Some(invite) = &args.invite {
        builder = builder.invite(invite.parse::<Invite>()?);
    }
    if let Some(token) = &args.token {
        builder = builder.token(token);
    }
    Ok(builder)
}

fn findings(diagnosis: &Diagnosis) -> Vec<Finding> {
    let signaling = format!("let us in after {} ms", diagnosis.signaling.as_millis());
    let mut all = vec![
        finding("signaling", Well(signaling)),
        direct(diagnosis),
        tcp(diagnosis),
        ipv6(diagnosis),
    ];
    all.extend(diagnosis.stun.iter().map(|check| {
        let verdict = match check.result {
            Ok(seen) => Well(format!("sees this machine as {seen}")),
            Err(error) => Wrong(error.to_string()),
        };
        finding(check.url.clone(), verdict)
    }));
    for transport in RelayTransport::ALL {
        all.extend(relays(diagnosis, transport));
    }
    all.push(strict_nat(diagnosis));
    all
}

/// Every way to a TURN server by one transport; if there is none, who will miss it.
fn relays(diagnosis: &Diagnosis, transport: RelayTransport) -> Vec<Finding> {
    let (name, missed) = match transport {
        RelayTransport::Udp => (
            "TURN over UDP",
            "relays are reached by TCP, where one lost packet holds up the voice behind it: name turn:HOST",
        ),
        RelayTransport::Tcp => (
            "TURN over TCP",
            "peers behind firewalls that pass no UDP may have no way at all: name turn:HOST?transport=tcp",
        ),
        RelayTransport::Tls => (
            "TURN over TLS",
            "peers in networks that pass nothing but TLS have no way at all: name turns:HOST:443",
        ),
    };
    let checks = diagnosis.turn.iter();
    let found: Vec<_> = checks
        .filter(|check| check.transport == transport)
        .map(|check| finding(format!("{name}, {}", check.url), relay(check)))
        .collect();
    if !found.is_empty() {
        return found;
    }
    let missing = format!(
        "no server is named for it; {missed} with --turn where the signaling server is started"
    );
    vec![finding(name, Note(missing))]
}

fn relay(check: &RelayCheck) -> Verdict {
    match (&check.relay, &check.link) {
        (Err(error), _) => Wrong(error.to_string()),
        (Ok(relay), Some(Ok(link))) => Well(format!(
            "relays from {relay}; a message went through and back {}",
            after(link)
        )),
        // A careful server relays to no address of its own network, so perhaps not to itself.
        (Ok(relay), _) => Well(format!("relays from {relay}, though not to itself")),
    }
}

fn after(link: &LinkCheck) -> String {
    format!("after {} ms", link.took.as_millis())
}

fn direct(diagnosis: &Diagnosis) -> Finding {
    let addresses: Vec<String> = diagnosis
        .addresses
        .iter()
        .map(ToString::to_string)
        .collect();
    let verdict = match &diagnosis.direct {
        Ok(link) => Well(format!(
            "this machine reaches itself {}; it offers {}",
            after(link),
            addresses.join(", ")
        )),
        Err(ConnectError::Socket(kind)) => Wrong(format!("no UDP socket could be bound ({kind})")),
        Err(_) => Wrong(
            "this machine does not even reach itself by UDP: let its firewall pass UDP from any port to any port"
                .into(),
        ),
    };
    finding("direct", verdict)
}

/// Links over TCP without a relay, for networks that pass no UDP between peers who reach each other.
fn tcp(diagnosis: &Diagnosis) -> Finding {
    let verdict = match &diagnosis.tcp {
        Some(Ok(link)) => Well(format!(
            "this machine reaches itself by TCP alone {}",
            after(link)
        )),
        Some(Err(_)) => Wrong(
            "this machine does not reach itself by TCP: let its firewall pass incoming TCP to any port from 1024 on, \
             or peers in networks without UDP meet it by relays only"
                .into(),
        ),
        None => Note("it is turned off: peers in networks without UDP meet this one by relays only".into()),
    };
    finding("direct over TCP", verdict)
}

fn ipv6(diagnosis: &Diagnosis) -> Finding {
    let verdict = match &diagnosis.ipv6 {
        Some(Ok(link)) => Well(format!(
            "this machine reaches itself by IPv6 alone {}",
            after(link)
        )),
        Some(Err(_)) => Wrong(
            "this machine has an address of IPv6 and does not reach itself there: let its firewall pass UDP over IPv6 as well, or \
             turn IPv6 off"
                .into(),
        ),
        None => Note(
            "this machine has no address that others could reach: peers who have IPv6 alone are met by relays only, and NATs, \
             which IPv6 does without, remain in the way; turn it on in the system and the router if the provider has it"
                .into(),
        ),
    };
    finding("IPv6", verdict)
}

/// Whether peers that cannot be reached directly can be reached at all.
fn strict_nat(diagnosis: &Diagnosis) -> Finding {
    let has_relay = diagnosis.turn.iter().any(|check| check.relay.is_ok());
    let nat = match diagnosis.nat {
        NatMapping::None => "no NAT",
        NatMapping::Consistent => "a NAT that lets peers meet directly",
        NatMapping::Varying => "a symmetric NAT, through which most peers are met by relays only",
        _ => "what the NAT does is not known: no STUN server told",
    };
    let verdict = match (has_relay, diagnosis.turn.is_empty()) {
        (true, _) => Well(nat.into()),
        (false, true) => Wrong(format!(
            "{nat}; no TURN server is configured, so peers behind strict NATs and firewalls do not connect: run one, and name it with --turn where the signaling server is started"
        )),
        (false, false) => Wrong(format!(
            "{nat}; no TURN server gives a relay, so peers behind strict NATs and firewalls do not connect"
        )),
    };
    finding("strict NATs", verdict)
}

fn to_json(findings: &[Finding], is_well: bool) -> Value {
    let findings = findings.iter().map(|finding| {
        let (verdict, says) = match &finding.verdict {
            Well(seen) => ("ok", seen),
            Note(advice) => ("note", advice),
            Wrong(wrong) => ("fail", wrong),
        };
        let ok = verdict != "fail";
        json!({ "check": finding.what, "ok": ok, "verdict": verdict, "says": says })
    });
    json!({ "ok": is_well, "findings": findings.collect::<Vec<_>>() })
}
