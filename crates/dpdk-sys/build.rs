//! Finds the system's DPDK, compiles the shims of `dpdk/`, and generates the bindings.

use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::process::{Command, exit};
use std::{env, fs, panic};

/// Functions of DPDK's libraries that `crates/dpdk` calls, beside our own `ravelin_*` shims.
const FUNCTIONS: &[&str] = &[
    "rte_eal_init",
    "rte_eal_cleanup",
    "rte_dev_probe",
    "rte_openlog_stream",
    "rte_log_set_global_level",
    "rte_strerror",
    "rte_version",
    "rte_thread_register",
    "rte_thread_unregister",
    "rte_socket_id_by_idx",
    "rte_socket_count",
    "rte_pktmbuf_pool_create",
    "rte_pktmbuf_free_bulk",
    "rte_mempool_free",
    "rte_mempool_avail_count",
    "rte_mempool_in_use_count",
    "rte_eth_find_next",
    "rte_eth_dev_get_port_by_name",
    "rte_eth_dev_get_name_by_port",
    "rte_eth_dev_is_valid_port",
    "rte_eth_dev_info_get",
    "rte_eth_dev_socket_id",
    "rte_eth_dev_configure",
    "rte_eth_dev_adjust_nb_rx_tx_desc",
    "rte_eth_rx_queue_setup",
    "rte_eth_tx_queue_setup",
    "rte_eth_dev_start",
    "rte_eth_dev_stop",
    "rte_eth_dev_close",
    "rte_eth_dev_set_mtu",
    "rte_eth_dev_get_mtu",
    "rte_eth_promiscuous_enable",
    "rte_eth_promiscuous_get",
    "rte_eth_allmulticast_enable",
    "rte_eth_allmulticast_get",
    "rte_eth_macaddr_get",
    "rte_eth_dev_mac_addr_add",
    "rte_eth_dev_set_mc_addr_list",
    "rte_eth_stats_get",
    "rte_eth_stats_reset",
    "rte_eth_xstats_get",
    "rte_eth_xstats_get_names",
    "rte_eth_dev_rss_hash_conf_get",
    "rte_eth_dev_rss_hash_update",
    "rte_eth_dev_rss_reta_update",
];

/// Types whose inside Rust does not touch: their layout differs between releases (the mbuf, whose
/// fields are reached by `RAVELIN_MBUF_*` offsets) or they are DPDK's own business.
const OPAQUE: &[&str] = &["rte_mbuf", "rte_mempool", "rte_device", "_IO_FILE"];

fn main() {
    let folder = Path::new(&env::var("CARGO_MANIFEST_DIR").expect("cargo sets this"))
        .join("../../dpdk")
        .canonicalize()
        .unwrap_or_else(|error| fail(&format!("the top-level folder dpdk/ is missing: {error}")));
    for file in ["version.toml", "shims.h", "shims.c"] {
        println!("cargo:rerun-if-changed={}", folder.join(file).display());
    }
    println!("cargo:rerun-if-changed=build.rs");

    let pin = Pin::read(&folder.join("version.toml"));
    let version = probe(&pin);
    let cflags = cflags();
    compile_shims(&folder, &cflags);
    generate(&folder, &cflags);
    println!("cargo:version={version}");
}

/// What `dpdk/version.toml` says: `(year, month)` of the oldest release and of the tested ones.
struct Pin {
    minimum: (u32, u32),
    tested: Vec<(u32, u32)>,
}

impl Pin {
    fn read(path: &Path) -> Self {
        let text = fs::read_to_string(path)
            .unwrap_or_else(|error| fail(&format!("{}: {error}", path.display())));
        let releases = |key: &str| -> Vec<(u32, u32)> {
            let line = text
                .lines()
                .find_map(|line| line.strip_prefix(key)?.trim_start().strip_prefix('='))
                .unwrap_or_else(|| fail(&format!("{} has no line `{key} = ...`", path.display())));
            // Every second piece between quotation marks is a value.
            let values = line.split('"').skip(1).step_by(2);
            values
                .map(|value| {
                    release(value).unwrap_or_else(|| {
                        fail(&format!(
                            "{}: {key}: `{value}` is not a release such as 22.11",
                            path.display()
                        ))
                    })
                })
                .collect()
        };
        let minimum = releases("minimum");
        let &[minimum] = minimum.as_slice() else {
            fail(&format!("{}: `minimum` wants one release", path.display()))
        };
        Self {
            minimum,
            tested: releases("tested"),
        }
    }
}

/// Year and month of a DPDK version such as `22.11.11`.
fn release(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// Finds libdpdk, checks its version, and tells cargo what to link. Returns the version.
fn probe(pin: &Pin) -> String {
    let library = pkg_config::Config::new()
        .probe("libdpdk")
        .unwrap_or_else(|error| {
            fail(&format!(
                "pkg-config does not find libdpdk (DPDK {}.{:02} or newer).\n\
             On Debian or Ubuntu: apt-get install libdpdk-dev pkg-config\n\
             For a DPDK of your own: PKG_CONFIG_PATH=PREFIX/lib/pkgconfig\n\n{error}",
                pin.minimum.0, pin.minimum.1,
            ))
        });
    let found = release(&library.version).unwrap_or_else(|| {
        fail(&format!(
            "libdpdk's version `{}` is not of the form YY.MM",
            library.version
        ))
    });
    if found < pin.minimum {
        fail(&format!(
            "libdpdk is {}; Ravelin needs {}.{:02} or newer (dpdk/version.toml). On Debian 12 or \
             Ubuntu 24.04: apt-get install libdpdk-dev",
            library.version, pin.minimum.0, pin.minimum.1,
        ));
    }
    if !pin.tested.contains(&found) {
        println!(
            "cargo:warning=libdpdk {} is not among the tested releases of dpdk/version.toml",
            library.version
        );
    }
    library.version
}

/// The compiler flags of libdpdk as pkg-config prints them: the `pkg-config` crate would leave
/// out `-include rte_config.h` and `-march=...`, and the shims need both.
fn cflags() -> Vec<String> {
    println!("cargo:rerun-if-env-changed=PKG_CONFIG");
    let program = env::var_os("PKG_CONFIG").unwrap_or_else(|| "pkg-config".into());
    let output = Command::new(&program)
        .args(["--cflags", "libdpdk"])
        .output()
        .unwrap_or_else(|error| fail(&format!("cannot run {}: {error}", program.display())));
    if !output.status.success() {
        fail(&format!(
            "`{} --cflags libdpdk` failed: {}",
            program.display(),
            String::from_utf8_lossy(&output.stderr)
        ));
    }
    let text = String::from_utf8(output.stdout)
        .unwrap_or_else(|_| fail("the flags of libdpdk are not UTF-8"));
    text.split_whitespace().map(str::to_owned).collect()
}

fn compile_shims(folder: &Path, cflags: &[String]) {
    let mut build = cc::Build::new();
    build
        .file(folder.join("shims.c"))
        // The burst functions are DPDK's inner loop: optimised in every profile.
        .opt_level(3)
        .std("gnu11")
        // DPDK's own headers are not clean under -Wextra.
        .extra_warnings(false);
    for flag in cflags {
        build.flag(flag);
    }
    if let Err(error) = build.try_compile("ravelin_dpdk_shims") {
        fail(&format!(
            "dpdk/shims.c does not compile; on Debian or Ubuntu a compiler is in: apt-get \
             install build-essential\n\n{error}"
        ));
    }
}

fn generate(folder: &Path, cflags: &[String]) {
    let mut builder = bindgen::Builder::default()
        .header(folder.join("shims.h").display().to_string())
        .clang_args(cflags)
        .rust_edition(bindgen::RustEdition::Edition2024)
        .formatter(bindgen::Formatter::None)
        .use_core()
        .generate_comments(false)
        .derive_default(true)
        .prepend_enum_name(false)
        .allowlist_function("ravelin_.*")
        .allowlist_var("RAVELIN_.*")
        .allowlist_type("ravelin_.*")
        .allowlist_type("rte_eth_rx_mq_mode")
        .allowlist_var("RTE_ETH_NAME_MAX_LEN");
    for function in FUNCTIONS {
        builder = builder.allowlist_function(function);
    }
    for name in OPAQUE {
        builder = builder.opaque_type(name);
    }
    // Without libclang bindgen panics: turn that into advice.
    let hook = panic::take_hook();
    panic::set_hook(Box::new(|_| {}));
    let generated = panic::catch_unwind(AssertUnwindSafe(|| builder.generate()));
    panic::set_hook(hook);
    let bindings = match generated {
        Ok(Ok(bindings)) => bindings,
        Ok(Err(error)) => fail(&format!("bindgen cannot read dpdk/shims.h: {error}")),
        Err(payload) => {
            let reason = payload
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| payload.downcast_ref::<&str>().copied())
                .unwrap_or("bindgen panicked");
            fail(&format!(
                "bindgen needs libclang.\n\
                 On Debian or Ubuntu: apt-get install libclang-dev\n\
                 For one elsewhere: LIBCLANG_PATH=FOLDER\n\n{reason}"
            ))
        }
    };
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets this")).join("bindings.rs");
    if let Err(error) = bindings.write_to_file(&out) {
        fail(&format!("{}: {error}", out.display()));
    }
}

/// Ends the build with a message and no backtrace.
fn fail(message: &str) -> ! {
    eprintln!("\ndpdk-sys: {message}\n");
    exit(1)
}
