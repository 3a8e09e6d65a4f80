// What `dropmesh verify` believes of a file, and of a node, that it has no reason to trust.
import { mkdirSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:http'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { hex } from '../../protocols/bytes.js'
import { type SignedRecord, seal } from '../../protocols/envelope.js'
import { meshIdOf, meshText } from '../../protocols/membership.js'
import { deployment, keyOf, MESH, NOW, OWNER, record, signer, specOf } from '../protocols/support.js'
import { TestMesh } from '../support/mesh.js'

const mesh = new TestMesh() // of no AP: for its command line
const ALICE = signer(1)
const alice = hex(ALICE.publicKey)
const ANN = signer(2)
const EVER = { expires: 0 } as const
const TO_ANN = record(OWNER, 'grant', ANN.publicKey, [NOW - 9, 0], { role: 'admin', ...EVER, scope: { instances: 8 } })
const scope = { chutes: ['web*'], cpu: 1000, disk: 8 * 1024 ** 3 }
const TO_ALICE = record(ANN, 'grant', ALICE.publicKey, [NOW - 8, 0], { role: 'publisher', ...EVER, scope })
const WEB = deployment(ALICE, 'web', [NOW, 0], { revision: 3 })
const file = join(mesh.dir, 'web.record')

const base64 = ({ bytes }: Pick<SignedRecord, 'bytes'>): string => Buffer.from(bytes).toString('base64')

/** A file of these records. */
const fileOf = (...records: Pick<SignedRecord, 'bytes'>[]): string => `${records.map(base64).join('\n')}\n`
const PROOF = fileOf(WEB, TO_ANN, TO_ALICE)

function verify(content: string, chute = 'web', id = meshText(MESH), ...more: string[]) {
  writeFileSync(file, content)
  return mesh.cli(['verify', chute, '--record', file, '--mesh', id, '--data', '/nonexistent', ...more])
}

test('a good record is verified without a node, and says who signed it and who let them', async () => {
  for (const chute of ['web', `${alice}/web`, `${alice.slice(0, 6).toUpperCase()}/web`]) {
    const { status, stdout, stderr } = await verify(PROOF, chute, meshText(MESH), '--json')
    assert.is(status, 0, stderr)
    const { signer: by, chain, takes, ...rest } = JSON.parse(stdout)
    assert.is(by.publisher, alice)
    assert.is(by.key, null)
    assert.equal(
      chain.map((link: { by: string; to: string; may: string }) => [link.by, link.to, link.may]),
      [
        [
          hex(OWNER.publicKey),
          hex(ANN.publicKey),
          'grant and revoke, and publish any chute with at most 8 instances in all',
        ],
        [hex(ANN.publicKey), alice, 'publish chutes called web* with at most 1 CPUs, 8192 MiB of images in all'],
      ],
    )
    assert.equal(takes, ['0.1 of 1 CPUs', '4096 of 8192 MiB of images', '1 of 8 instances'])
    const signed = new Date(NOW).toISOString()
    assert.equal(rest, { chute: 'web', revision: 3, signed, hash: hex(WEB.hash), mesh: meshText(MESH) })
  }
})

test('a record whose chain does not reach its publisher, or no longer does, is not, and it is said why', async () => {
  const revoked = record(ANN, 'revocation', ALICE.publicKey, [NOW, 0], { keep: new Uint8Array() })
  const stays = record(ANN, 'revocation', ALICE.publicKey, [NOW, 0], { keep: WEB.hash })
  const byNobody = record(OWNER, 'revocation', ANN.publicKey, [NOW, 0], { keep: new Uint8Array() })
  const narrow = record(ANN, 'grant', ALICE.publicKey, [NOW, 0], { role: 'publisher', ...EVER, scope: { cpu: 50 } })
  const over = record(ANN, 'grant', ALICE.publicKey, [NOW, 0], { role: 'publisher', expires: NOW })
  const big = deployment(ALICE, 'web', [NOW, 0], { revision: 3, spec: specOf({ replicas: 9 }) })
  for (const [records, why] of [
    [[WEB], /no grant that the key of the mesh signed/],
    [[WEB, TO_ANN], /its publisher has no grant/],
    [[WEB, TO_ALICE], /no grant that the key of the mesh signed/],
    [[WEB, TO_ANN, TO_ALICE, revoked], /the key was revoked/],
    [[WEB, TO_ANN, TO_ALICE, byNobody], /its publisher has no grant|revoked/],
    [[WEB, TO_ANN, narrow], /needs 0\.1 CPUs, 0\.05 of the 0\.05 granted are left/],
    [[WEB, TO_ANN, over], /its grant ran out at /],
    [
      [big, TO_ANN, record(ANN, 'grant', ALICE.publicKey, [NOW, 0], { role: 'publisher', ...EVER })],
      /8 instances granted/,
    ],
  ] as [SignedRecord[], RegExp][]) {
    const { status, stdout, stderr } = await verify(fileOf(...records))
    assert.equal([status, stdout], [1, ''], why.source)
    assert.match(stderr, /does not show that web, revision 3, by [0-9a-f]{64}, may be there: /)
    assert.match(stderr, why)
  }
  const { status, stderr } = await verify(fileOf(WEB, TO_ANN, TO_ALICE, stays))
  assert.is(status, 0, stderr)
})

test('nothing else is: another mesh, another chute, a changed byte, another kind, no record', async () => {
  const changed = Uint8Array.from(WEB.bytes)
  changed[changed.length - 1]! ^= 1
  const other = meshText(meshIdOf(keyOf(9)))
  const drain = record(ALICE, 'drain', ALICE.publicKey, [NOW, 0], { draining: true })
  const stolen = seal(signer(2), MESH, [NOW, 0], 'deployment', WEB.subject, WEB.body)
  for (const [content, why, chute, id] of [
    [
      base64(WEB),
      /proves nothing for mesh \w{32}: a deployment record belongs to another mesh \(\w{32}\)/,
      'web',
      other,
    ],
    [base64(WEB), /not of shop but of [0-9a-f]{12}\/web/, 'shop'],
    [base64(WEB), /not of 0000\/web but of [0-9a-f]{12}\/web/, '0000/web'],
    [base64({ bytes: changed }), /the signature of a deployment record by [0-9a-f]{64} does not verify/],
    [base64(stolen), /signer or clock does not fit/],
    [base64(drain), /a drain record, where a deployment belongs/],
    [base64(WEB).slice(0, 100), /web\.record proves nothing for mesh/],
    ['', /proves nothing for mesh/],
    [base64(WEB), /"nonsense!" is no mesh id: 32 letters and digits/, 'web', 'nonsense!'],
  ] as const) {
    const { status, stdout, stderr } = await verify(content, chute, id)
    assert.is(status, 1, stdout)
    assert.is(stdout, '')
    assert.match(stderr, why)
    assert.is(stderr.trimEnd().split('\n').length, 1, stderr)
  }
  assert.is((await mesh.cli(['verify', 'web'])).status, 2)
})

test('a node is believed no more than a file', async () => {
  const data = join(mesh.dir, 'node')
  mkdirSync(data)
  let records = [WEB, TO_ANN, TO_ALICE].map(base64)
  const node = createServer((_, response) => response.end(JSON.stringify({ records })))
  node.listen(join(data, 'dropmesh.sock'))
  try {
    const asked = () => mesh.cli(['verify', 'web', '--mesh', meshText(MESH), '--data', data])
    const good = await asked()
    assert.is(good.status, 0, good.stderr)
    assert.match(
      good.stdout,
      /^web, revision 3, is signed for mesh \w{32}\nPublisher {2}[0-9a-f]{64}\nSSH key {4}SHA256:/,
    )
    records = [base64(deployment(signer(2), 'other', [NOW, 0]))]
    const bad = await asked()
    assert.is(bad.status, 1)
    assert.match(bad.stderr, /the record is not of web but of [0-9a-f]{12}\/other/)
  } finally {
    node.close().closeAllConnections()
  }
})

test.run()
