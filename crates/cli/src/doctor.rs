//! `roundtable doctor`: what works between this machine and others, and what to change.

use std::process::ExitCode;

use roundtable::{
    Invite, Room, RoomBuilder,
    doctor::{ConnectError, Diagnosis, LinkCheck, NatMapping},
};
use serde_json::{Value, json};

use crate::{args::Doctor, error::CliError};

/// Where the mends are written down.
const GUIDE: &str = "docs/guides/connectivity.md";

/// One thing that was checked.
struct Finding {
    what: String,
    /// What was seen, or what is wrong and how to mend it.
    says: Result<String, String>,
}

/// Checks and tells. Ends with 1 if something must be changed.
pub(crate) async fn run(args: Doctor) -> Result<ExitCode, CliError> {
    let diagnosis = builder(&args)?.diagnose().await?;
    let findings = findings(&diagnosis);
    let is_well = findings.iter().all(|finding| finding.says.is_ok());
    if args.json {
        println!("{}", to_json(&findings, is_well));
    } else {
        for Finding { what, says } in &findings {
            match says {
                Ok(seen) => println!("ok    {what}: {seen}"),
                Err(wrong) => println!("FAIL  {what}: {wrong}"),
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
        Finding {
            what: "signaling".into(),
            says: Ok(signaling),
        },
        direct(diagnosis),
    ];
    all.extend(diagnosis.stun.iter().map(|check| Finding {
        what: check.url.clone(),
        says: match check.result {
            Ok(seen) => Ok(format!("sees this machine as {seen}")),
            Err(error) => Err(error.to_string()),
        },
    }));
    all.extend(diagnosis.turn.iter().map(|check| Finding {
        what: check.url.clone(),
        says: match (&check.relay, &check.link) {
            (Err(error), _) => Err(error.to_string()),
            (Ok(relay), Some(Ok(link))) => Ok(format!(
                "relays from {relay}; a message went through and back {}",
                after(link)
            )),
            // A careful server relays to no address of its own network, so perhaps not to itself.
            (Ok(relay), _) => Ok(format!("relays from {relay}, though not to itself")),
        },
    }));
    all.push(strict_nat(diagnosis));
    all
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
    let says = match &diagnosis.direct {
        Ok(link) => Ok(format!(
            "this machine reaches itself {}; it offers {}",
            after(link),
            addresses.join(", ")
        )),
        Err(ConnectError::Socket(kind)) => {
            Err(format!("no UDP socket could be bound ({kind})"))
        }
        Err(_) => Err(
            "this machine does not even reach itself by UDP: let its firewall pass UDP from any port to any port"
                .into(),
        ),
    };
    Finding {
        what: "direct".into(),
        says,
    }
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
    let says = match (has_relay, diagnosis.turn.is_empty()) {
        (true, _) => Ok(nat.into()),
        (false, true) => Err(format!(
            "{nat}; no TURN server is configured, so peers behind strict NATs and firewalls do not connect: run one, and name it with --turn where the signaling server is started"
        )),
        (false, false) => Err(format!(
            "{nat}; no TURN server gives a relay, so peers behind strict NATs and firewalls do not connect"
        )),
    };
    Finding {
        what: "strict NATs".into(),
        says,
    }
}

fn to_json(findings: &[Finding], is_well: bool) -> Value {
    let findings = findings.iter().map(|finding| {
        let (ok, says) = match &finding.says {
            Ok(seen) => (true, seen),
            Err(wrong) => (false, wrong),
        };
        json!({ "check": finding.what, "ok": ok, "says": says })
    });
    json!({ "ok": is_well, "findings": findings.collect::<Vec<_>>() })
}
