//! TLS: whom a connection trusts, and the certificates of `certs.d` (containers-certs.d(5), docker's `certs.d`).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

use super::environment::Environment;
use crate::error::{Error, Result};

/// Whom a connection trusts.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Trust {
    /// No TLS at all: connections over plain HTTP.
    Nothing,
    /// The system's certificate authorities and those of these files.
    Authorities {
        /// More authorities.
        files: Vec<PathBuf>,
        /// A folder of `certs.d`: `*.crt` are authorities, `X.cert` with `X.key` identify the client.
        folder: Option<PathBuf>,
        /// Chain and key of the client; the first is shown.
        identities: Vec<(PathBuf, PathBuf)>,
    },
    /// Whoever answers.
    Anyone {
        /// As above, for the client's certificate.
        folder: Option<PathBuf>,
        /// As above.
        identities: Vec<(PathBuf, PathBuf)>,
    },
}

/// The first folder of `certs.d` that speaks of `authority` (`host` or `host:port`).
pub(super) fn certs_folder(environment: &Environment, authority: &str) -> Option<PathBuf> {
    let config = environment.config_home();
    let bases = [
        config.as_ref().map(|c| c.join("containers/certs.d")),
        Some(environment.system().join("containers/certs.d")),
        config.as_ref().map(|c| c.join("docker/certs.d")),
        Some(environment.system().join("docker/certs.d")),
        Some(environment.system().join("containerd/certs.d")),
    ];
    bases.into_iter().flatten().map(|base| base.join(authority)).find(|folder| folder.is_dir())
}

/// Makes the configuration of a connection. Reads files, so keep it off the runtime's threads.
///
/// # Errors
/// `Store` when a named file cannot be read, `Usage` when it holds no certificate or key.
pub(super) fn client_config(trust: &Trust) -> Result<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|e| Error::Usage(format!("TLS: {e}")))?;
    let (builder, folder, identities) = match trust {
        Trust::Nothing => (builder.with_root_certificates(RootCertStore::empty()), None, None),
        Trust::Authorities { files, folder, identities } => {
            (builder.with_root_certificates(roots(files, folder.as_deref())?), folder.as_deref(), identities.first())
        }
        Trust::Anyone { folder, identities } => {
            let verifier = Arc::new(AcceptAnyone(provider));
            let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
            (builder, folder.as_deref(), identities.first())
        }
    };
    let identity = match identities {
        Some((chain, key)) => Some((certificates(chain)?, private_key(key)?)),
        None => folder.map(client_identity).transpose()?.flatten(),
    };
    match identity {
        None => Ok(builder.with_no_client_auth()),
        Some((chain, key)) => builder
            .with_client_auth_cert(chain, key)
            .map_err(|e| Error::Usage(format!("the client certificate cannot be used: {e}"))),
    }
}

fn roots(files: &[PathBuf], folder: Option<&Path>) -> Result<RootCertStore> {
    let mut store = RootCertStore::empty();
    let loaded = rustls_native_certs::load_native_certs();
    for error in &loaded.errors {
        tracing::debug!(%error, "a certificate authority of the system cannot be read");
    }
    store.add_parsable_certificates(loaded.certs);
    let more = folder.map(|f| files_ending(f, "crt")).transpose()?.unwrap_or_default();
    for file in files.iter().chain(&more) {
        let certificates = certificates(file)?;
        let (added, _) = store.add_parsable_certificates(certificates);
        if added == 0 {
            return Err(Error::Usage(format!("{} holds no certificate", file.display())));
        }
    }
    Ok(store)
}

type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// The first `X.cert` that has an `X.key` beside it.
fn client_identity(folder: &Path) -> Result<Option<Identity>> {
    for chain in files_ending(folder, "cert")? {
        let key = chain.with_extension("key");
        if key.is_file() {
            let key = private_key(&key)?;
            return Ok(Some((certificates(&chain)?, key)));
        }
    }
    Ok(None)
}

fn private_key(file: &Path) -> Result<PrivateKeyDer<'static>> {
    let text = std::fs::read(file).map_err(Error::store("read the key", file))?;
    PrivateKeyDer::from_pem_slice(&text).map_err(|e| Error::Usage(format!("{}: no private key: {e}", file.display())))
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let text = std::fs::read(file).map_err(Error::store("read the certificate", file))?;
    CertificateDer::pem_slice_iter(&text)
        .collect::<Result<_, _>>()
        .map_err(|e| Error::Usage(format!("{}: no certificate: {e}", file.display())))
}

fn files_ending(folder: &Path, extension: &str) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder).map_err(Error::store("read the certificates in", folder))?;
    let mut files: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|e| e == extension))
        .collect();
    files.sort();
    Ok(files)
}

/// Takes any certificate, but still demands that the server holds its key.
#[derive(Debug)]
struct AcceptAnyone(Arc<CryptoProvider>);

impl ServerCertVerifier for AcceptAnyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
