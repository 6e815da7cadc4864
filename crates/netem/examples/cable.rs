//! A cable between two network interfaces, with a network's faults: `cargo xtask lab` lays it between
//! namespaces, where the kernel has no `netem` of its own.
//!
//! Makes two TAP devices and says `ready`; whoever started it moves them where it likes. What enters one leaves
//! the other, after what [`Conditions`] say. Lines on standard input change it while it runs: `cut` and `mend`,
//! or `cut near` for what enters the near end only. It ends with its input.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    #[cfg(target_os = "linux")]
    return cable::main();
    #[cfg(not(target_os = "linux"))]
    {
        eprintln!("error: TAP devices are those of Linux");
        std::process::ExitCode::from(2)
    }
}

#[cfg(target_os = "linux")]
mod cable {
    use std::{
        io::{self, BufRead as _},
        process::ExitCode,
        sync::{
            Arc,
            mpsc::{self, RecvTimeoutError, Sender},
        },
        thread,
        time::{Duration, Instant},
    };

    use clap::Parser;
    use roundtable_core::{Bitrate, Timestamp};
    use roundtable_netem::{Conditions, Flow, Netem};
    use tun_rs::{DeviceBuilder, Layer, SyncDevice};

    /// An Ethernet frame of the usual length, and some more.
    const FRAME: usize = 2048;
    /// How long to wait when nothing is under way.
    const IDLE: Duration = Duration::from_secs(3600);

    /// A cable between two TAP devices, with a network's faults.
    #[derive(Debug, Parser)]
    struct Args {
        /// The name of the one device
        near: String,
        /// The name of the other
        far: String,
        /// How long every packet takes, one way
        #[arg(long, default_value_t = 0)]
        delay_ms: u64,
        /// How much longer it may take; packets keep their order
        #[arg(long, default_value_t = 0)]
        jitter_ms: u64,
        /// How many packets in a thousand are lost
        #[arg(long, default_value_t = 0)]
        loss_per_mille: u16,
        /// How many packets in a thousand overtake all others
        #[arg(long, default_value_t = 0)]
        reorder_per_mille: u16,
        /// How much passes in a second, each way
        #[arg(long)]
        rate_kbps: Option<u32>,
        /// What decides which packets these are
        #[arg(long, default_value_t = 0)]
        seed: u64,
    }

    impl Args {
        fn conditions(&self) -> Conditions {
            Conditions {
                delay: Duration::from_millis(self.delay_ms),
                jitter: Duration::from_millis(self.jitter_ms),
                loss_per_mille: self.loss_per_mille,
                reorder_per_mille: self.reorder_per_mille,
                rate: self.rate_kbps.map(Bitrate::from_kbps),
                in_order: self.reorder_per_mille == 0,
                ..Conditions::default()
            }
        }
    }

    /// The two ends, each with what leaves it.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum End {
        Near,
        Far,
    }

    #[derive(Debug)]
    enum Happened {
        /// A packet entered this end.
        Packet(End, Vec<u8>),
        Said(String),
        /// There is nobody left to say anything.
        Over,
    }

    pub(super) fn main() -> ExitCode {
        let args = Args::parse();
        match run(&args) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("error: {error}; making network devices needs root");
                ExitCode::FAILURE
            }
        }
    }

    fn run(args: &Args) -> io::Result<()> {
        let device = |name: &str| {
            let device = DeviceBuilder::new().name(name).layer(Layer::L2);
            device.build_sync().map(Arc::new)
        };
        let (near, far) = (device(&args.near)?, device(&args.far)?);
        let (sender, happened) = mpsc::channel();
        read(&near, End::Near, sender.clone());
        read(&far, End::Far, sender.clone());
        thread::spawn(move || {
            for line in io::stdin().lock().lines().map_while(Result::ok) {
                if sender.send(Happened::Said(line)).is_err() {
                    return;
                }
            }
            let _ = sender.send(Happened::Over);
        });
        println!("ready");
        carry(args, &near, &far, &happened);
        Ok(())
    }

    /// Reads what enters an end, for as long as the device is there.
    fn read(device: &Arc<SyncDevice>, end: End, happened: Sender<Happened>) {
        let device = Arc::clone(device);
        thread::spawn(move || {
            let mut frame = [0; FRAME];
            loop {
                match device.recv(&mut frame) {
                    Ok(len) => {
                        let packet = frame[..len].to_vec();
                        if happened.send(Happened::Packet(end, packet)).is_err() {
                            return;
                        }
                    }
                    // Down, or on its way into a namespace.
                    Err(_) => thread::sleep(Duration::from_millis(1)),
                }
            }
        });
    }

    #[allow(clippy::disallowed_methods)] // a shell around the network: it reads the clock
    fn carry(
        args: &Args,
        near: &SyncDevice,
        far: &SyncDevice,
        happened: &mpsc::Receiver<Happened>,
    ) {
        let start = Instant::now();
        let now = || Timestamp::from_micros(micros(start.elapsed()));
        // What enters near leaves far, and the other way round.
        let mut outward: Netem<Vec<u8>> = Netem::new(args.seed, args.conditions());
        let mut inward: Netem<Vec<u8>> = Netem::new(args.seed.wrapping_add(1), args.conditions());
        loop {
            for (net, device) in [(&mut outward, far), (&mut inward, near)] {
                while let Some(packet) = net.poll(now()) {
                    // A device that is down loses what comes, as a cable that is pulled does.
                    let _: io::Result<usize> = device.send(packet.as_slice());
                }
            }
            let due = [outward.next_timeout(), inward.next_timeout()];
            let wait = due.into_iter().flatten().min();
            let wait = wait.map_or(IDLE, |due| due.saturating_since(now()));
            match happened.recv_timeout(wait) {
                Ok(Happened::Packet(end, packet)) => {
                    let net = match end {
                        End::Near => &mut outward,
                        End::Far => &mut inward,
                    };
                    net.send(now(), Flow::Datagram, packet.len(), packet);
                }
                Ok(Happened::Said(line)) => obey(&line, &mut outward, &mut inward, now()),
                Err(RecvTimeoutError::Timeout) => {}
                Ok(Happened::Over) | Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn obey(line: &str, outward: &mut Netem<Vec<u8>>, inward: &mut Netem<Vec<u8>>, now: Timestamp) {
        match line.trim() {
            "cut" => {
                outward.cut();
                inward.cut();
            }
            "cut near" => outward.cut(),
            "cut far" => inward.cut(),
            "mend" => {
                outward.mend(now);
                inward.mend(now);
            }
            other => eprintln!("error: `{other}` is none of cut, cut near, cut far, mend"),
        }
    }

    fn micros(duration: Duration) -> u64 {
        u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
    }
}
