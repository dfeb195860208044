//! What a stranger's first message can make us compute.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use osmoda_types::{MeshEpoch, NetworkId};

use super::*;

/// Our slots, counting what is computed with a peer's data.
struct Counting {
    inner: Resolver,
    calls: Arc<AtomicUsize>,
}

impl CryptoResolver for Counting {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        self.inner.resolve_rng()
    }
    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        Some(Box::new(CountedDh(self.inner.resolve_dh(choice)?, self.calls.clone())))
    }
    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        self.inner.resolve_hash(choice)
    }
    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        self.inner.resolve_cipher(choice)
    }
    fn resolve_kem(&self, slot: &KemChoice) -> Option<Box<dyn Kem>> {
        Some(Box::new(CountedKem(self.inner.resolve_kem(slot)?, self.calls.clone())))
    }
}

struct CountedDh(Box<dyn Dh>, Arc<AtomicUsize>);

impl Dh for CountedDh {
    fn name(&self) -> &'static str {
        self.0.name()
    }
    fn pub_len(&self) -> usize {
        self.0.pub_len()
    }
    fn priv_len(&self) -> usize {
        self.0.priv_len()
    }
    fn set(&mut self, secret: &[u8]) {
        self.0.set(secret);
    }
    fn generate(&mut self, rng: &mut dyn Random) -> Result<(), snow::Error> {
        self.0.generate(rng)
    }
    fn pubkey(&self) -> &[u8] {
        self.0.pubkey()
    }
    fn privkey(&self) -> &[u8] {
        self.0.privkey()
    }
    fn dh(&self, public: &[u8], out: &mut [u8]) -> Result<(), snow::Error> {
        self.1.fetch_add(1, Ordering::Relaxed);
        self.0.dh(public, out)
    }
}

struct CountedKem(Box<dyn Kem>, Arc<AtomicUsize>);

impl Kem for CountedKem {
    fn name(&self) -> &'static str {
        self.0.name()
    }
    fn pub_len(&self) -> usize {
        self.0.pub_len()
    }
    fn ciphertext_len(&self) -> usize {
        self.0.ciphertext_len()
    }
    fn shared_secret_len(&self) -> usize {
        self.0.shared_secret_len()
    }
    fn generate(&mut self, rng: &mut dyn Random) {
        self.0.generate(rng);
    }
    fn pubkey(&self) -> &[u8] {
        self.0.pubkey()
    }
    fn encapsulate(&self, public: &[u8], shared: &mut [u8], out: &mut [u8]) -> Result<(usize, usize), snow::Error> {
        self.1.fetch_add(1, Ordering::Relaxed);
        self.0.encapsulate(public, shared, out)
    }
    fn decapsulate(&self, ciphertext: &[u8], shared: &mut [u8]) -> Result<usize, snow::Error> {
        self.1.fetch_add(1, Ordering::Relaxed);
        self.0.decapsulate(ciphertext, shared)
    }
}

#[test]
fn hygiene_04_a_wrong_secret_fails_before_any_key_exchange_with_the_peers_data() {
    let key = Arc::new(StaticKey::from_bytes(&[1; 32]));
    let psk = |epoch| Psk::mesh(&NetworkId::from_bytes([1; 32]), MeshEpoch(epoch), &[2; 32]);
    let first = |psk: &Psk| Noise::new(End::Initiator, &key, psk, b"p").unwrap().write(b"params").unwrap();
    let calls = Arc::new(AtomicUsize::new(0));
    let responder = || {
        let resolver = Resolver { known: key.clone(), backend: Backend::DEFAULT };
        let resolver = Box::new(Counting { inner: resolver, calls: calls.clone() });
        let secret = psk(1);
        let builder = snow::Builder::with_resolver(params(NOISE_NAME, "XXhfs+psk0").unwrap(), resolver)
            .local_private_key(key.secret_bytes())
            .unwrap()
            .prologue(b"p")
            .unwrap()
            .psk(0, secret.bytes())
            .unwrap();
        Noise(builder.build_responder().unwrap())
    };
    // Another secret, noise of the right length, and a message cut short.
    for bad in [first(&psk(2)), vec![7; 1312], first(&psk(1))[..1000].to_vec()] {
        assert!(responder().read(&bad).is_err());
        assert_eq!(calls.load(Ordering::Relaxed), 0);
    }
    // The right one is read without a key exchange too; answering it needs three.
    let mut honest = responder();
    honest.read(&first(&psk(1))).unwrap();
    assert_eq!(calls.load(Ordering::Relaxed), 0);
    honest.write(b"").unwrap();
    assert_eq!(calls.load(Ordering::Relaxed), 3, "ee, ekem1, es");
}
