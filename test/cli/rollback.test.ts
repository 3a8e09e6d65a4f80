// What a rollback signs where the local node does not tell the truth.
import { mkdirSync } from 'node:fs'
import { createServer, type Server } from 'node:http'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import type { RevisionRow } from '../../node/api/queries.js'
import { loadSeed } from '../../node/identity.js'
import { hex } from '../../protocols/bytes.js'
import type { SignedRecord } from '../../protocols/envelope.js'
import { personSigner } from '../../protocols/keys.js'
import { deployment, NOW, signer, specOf } from '../protocols/support.js'
import { TestMesh } from '../support/mesh.js'

const mesh = new TestMesh() // of no AP: for its keys and its command line
const data = join(mesh.dir, 'node')
mkdirSync(data)
assert.is((await mesh.cli(['keys', 'new', 'alice'])).status, 0)
const alice = personSigner((await loadSeed(join(mesh.dir, 'user', 'dropmesh', 'keys'), 'alice'))!)

let earlier: Pick<SignedRecord, 'bytes' | 'hash'>
const asked: string[] = []
const node: Server = createServer(({ method, url }, response) => {
  asked.push(`${method} ${url}`)
  const row = (revision: number, { hash, bytes }: typeof earlier): RevisionRow => ({
    chute: 'web',
    publisher: hex(alice.publicKey),
    revision,
    signed: new Date(NOW).toISOString(),
    state: revision === 2 ? 'in-force' : 'superseded',
    hash: hex(hash),
    lostTo: null,
    before: null,
    envelope: Buffer.from(bytes).toString('base64'),
  })
  response.end(JSON.stringify([row(2, GOOD), row(1, earlier)]))
}).listen(join(data, 'dropmesh.sock'))
test.after(() => void node.close().closeAllConnections())

const GOOD = deployment(alice, 'web', [NOW, 0], { revision: 2 })
const OTHER = deployment(alice, 'web', [NOW, 1], { spec: specOf({ replicas: 7 }) })

test('what the publisher did not sign before, of this very chute, is not signed again', async () => {
  const forged = { ...OTHER, bytes: Uint8Array.from(OTHER.bytes) }
  forged.bytes[forged.bytes.length - 1]! ^= 1
  for (const [record, why] of [
    [forged, /the signature of a deployment record by [0-9a-f]{64} does not verify/],
    [deployment(signer(9), 'web', [NOW, 0]), /revision 1 \([0-9a-f]{12}\) of web was not signed with your key/],
    [deployment(alice, 'other', [NOW, 0]), /of web was not signed with your key/],
  ] as const) {
    earlier = record
    const { status, stderr } = await mesh.cli(['rollback', 'web', '1', '--data', data])
    assert.is(status, 1)
    assert.match(stderr, why)
  }
  assert.equal(new Set(asked), new Set(['GET /v1/history?of=web']))
})

test('what the publisher did sign is, and only then the node is asked for more', async () => {
  earlier = OTHER
  await mesh.cli(['rollback', 'web', '1', '--data', data])
  assert.is(asked.at(-1), `GET /v1/next?publisher=${hex(alice.publicKey)}&name=web`)
})

test.run()
