//! Each kind of signature counts for its statement and key, and for nothing else.

use super::*;
use crate::testing::{approver, armored, key, permit, sign, ssh_sign};
use ed25519_dalek::Signer as _;
use osmoda_types::CallHash;
use ssh_key::HashAlg;
use ssh_key::public::{Ed25519PublicKey, SkEd25519};

fn hash() -> CallHash {
    CallHash::from_bytes([7; 32])
}

fn fido(seed: u8, permit: &Permit, application: &str, flags: u8) -> ApproverSignature {
    let key = key(seed);
    let data = SshSig::signed_data(SSH_NAMESPACE, HashAlg::Sha512, &permit.statement(Decision::Approve)).unwrap();
    let trailer = [flags, 0, 0, 0, 9];
    let mut bytes = key.sign(&fido_data(application, &trailer, &data)).to_bytes().to_vec();
    bytes.extend(trailer);
    let signature = ssh_key::Signature::new(Algorithm::SkEd25519, bytes).unwrap();
    let public = KeyData::SkEd25519(SkEd25519::new(Ed25519PublicKey(key.verifying_key().to_bytes()), application));
    armored(Decision::Approve, &SshSig::new(public, SSH_NAMESPACE, HashAlg::Sha512, signature).unwrap())
}

#[test]
fn every_kind_of_signature_names_its_key() {
    let permit = permit(hash());
    let principals = [approver("ada", 1)];
    for signature in [
        sign(1, &permit, Decision::Approve),
        ssh_sign(1, &permit, Decision::Approve, SSH_NAMESPACE),
        fido(1, &permit, "ssh:", 1),
        fido(1, &permit, "ssh:osmoda", 5),
    ] {
        assert_eq!(signature.approver(&permit, &principals).unwrap().name, "ada", "{signature:?}");
        let other = Permit { approvers: 2, ..permit.clone() };
        assert_eq!(signature.signer(&other), Err(SignatureFault::Invalid));
        let relabelled = ApproverSignature { decision: Decision::BreakGlass, ..signature };
        assert_eq!(relabelled.signer(&permit), Err(SignatureFault::Invalid));
    }
}

#[test]
fn foreign_namespaces_applications_and_untouched_keys_do_not_count() {
    let permit = permit(hash());
    for signature in [
        ssh_sign(1, &permit, Decision::Approve, "git"),
        ssh_sign(1, &permit, Decision::Approve, "file"),
        fido(1, &permit, "webauthn:bank", 1),
        fido(1, &permit, "ssh:", 0),
        fido(1, &permit, "ssh:", 4),
    ] {
        assert!(matches!(signature.signer(&permit), Err(SignatureFault::Ssh(_))), "{signature:?}");
    }
    let junk = Proof::Ssh { armored: "-----BEGIN SSH SIGNATURE-----\nAAAA\n-----END SSH SIGNATURE-----".into() };
    let junk = ApproverSignature { decision: Decision::Approve, proof: junk };
    assert!(matches!(junk.signer(&permit), Err(SignatureFault::Ssh(_))));
}

#[test]
fn a_real_signature_of_ssh_keygen_verifies() {
    // Made with OpenSSH's `ssh-keygen -t ed25519` and
    // `ssh-keygen -Y sign -n osmoda-permit`, over the bytes `hello`.
    let (line, armored) = (include_str!("key.pub"), include_str!("hello.sig"));
    let key = ssh_public_key(line).unwrap();
    assert_eq!(verify_ssh(armored, b"hello"), Ok(key));
    assert_eq!(verify_ssh(armored, b"hellp"), Err(SignatureFault::Invalid));
}

#[test]
fn only_approvers_count_and_each_person_once() {
    let permit = Permit { approvers: 2, ..permit(hash()) };
    let mut viewer = approver("eve", 3);
    viewer.rights = vec![Right::Deploy];
    let principals = [approver("ada", 1), approver("bob", 2), viewer, approver("ada", 4)];
    let count = |seeds: &[u8]| {
        let signatures: Vec<_> = seeds.iter().map(|seed| sign(*seed, &permit, Decision::Approve)).collect();
        tally(&permit, &signatures, &principals, &[])
    };
    assert!(count(&[1, 2]).is_enough(&permit));
    for few in [&[][..], &[1], &[1, 1], &[1, 4], &[1, 3], &[1, 9]] {
        assert!(!count(few).is_enough(&permit), "{few:?}");
    }
    let denied =
        [sign(1, &permit, Decision::Approve), sign(2, &permit, Decision::Approve), sign(4, &permit, Decision::Deny)];
    assert!(!tally(&permit, &denied, &principals, &[]).is_enough(&permit), "one denial is final");
    let emergency = [sign(1, &permit, Decision::BreakGlass)];
    assert!(!tally(&permit, &emergency, &principals, &[]).is_enough(&permit));
    assert!(tally(&permit, &emergency, &principals, &["ada".into()]).is_enough(&permit));
}

#[test]
fn what_stands_around_a_signature_is_not_kept() {
    let permit = permit(hash());
    for plain in [ssh_sign(1, &permit, Decision::Approve, SSH_NAMESPACE), fido(1, &permit, "ssh:", 1)] {
        let Proof::Ssh { armored } = &plain.proof else { panic!("{plain:?}") };
        for around in [format!("x1\n{armored}"), format!("x2\n\n{armored}"), armored.replace('\n', "\r\n")] {
            let varied = ApproverSignature { decision: plain.decision, proof: Proof::Ssh { armored: around } };
            assert_eq!(varied.signer(&permit), plain.signer(&permit), "it holds, and so it needs one form");
            assert_eq!(varied.key(), Some(plain.signer(&permit).unwrap()));
            assert_eq!(varied.canonical(), Ok(plain.clone()));
        }
    }
    let plain = sign(1, &permit, Decision::Approve);
    assert_eq!((plain.key(), plain.clone().canonical()), (Some(plain.signer(&permit).unwrap()), Ok(plain)));
    let junk = ApproverSignature { decision: Decision::Deny, proof: Proof::Ssh { armored: "junk".into() } };
    assert_eq!((junk.key(), junk.canonical().is_err()), (None, true));
}
