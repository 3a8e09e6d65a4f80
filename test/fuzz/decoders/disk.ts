// What an AP reads from its own disk.
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { Tokens } from '../../../node/api/tokens.js'
import { loadBelonging } from '../../../node/belonging.js'
import { LeaseBook } from '../../../node/chutes/lease-book.js'
import { loadConfig } from '../../../node/config.js'
import { BootCounter, KnownPeers, loadSeed } from '../../../node/identity.js'
import { isWhole } from '../../../node/packages/catalogue.js'
import { SmallFile } from '../../../node/store/files.js'
import { meta, put, Sum, sort } from '../../../node/store/layout.js'
import { apId, hex, unhex, utf8 } from '../../../protocols/bytes.js'
import { decode, encode } from '../../../protocols/codec.js'
import { open } from '../../../protocols/envelope.js'
import * as limits from '../../../protocols/limits.js'
import { AP } from '../../protocols/samples.js'
import { MESH, NOW, OWNER } from '../../protocols/support.js'
import { scratch } from '../../support/scratch.js'
import type { Form } from '../mutate.js'
import { type Decoder, key, must, records, text } from './decoder.js'
import { DIGEST } from './packages.js'
import { addresses, bytes } from './peers.js'

/** A file of an AP, and what the AP asks of it then. */
export const smallFile = (
  name: string,
  reads: string,
  form: Form,
  seeds: string[],
  decode: (dir: string, file: string) => unknown,
): Decoder => {
  const dir = scratch('fuzz')
  mkdirSync(join(dir, 'keys'))
  const path = join(dir, name)
  return {
    name: `file-${name.replace(/.*\/|\..*/g, '')}`,
    form,
    limit: 4096,
    seeds: seeds.map((seed) => utf8(seed)),
    reads: [reads],
    quick: 100,
    decode: (input) => {
      writeFileSync(path, input)
      return decode(dir, path)
    },
  }
}

const ballot = { generation: 1, voters: [hex(key(1))] }
export const files = [
  smallFile(
    'leases',
    'node/chutes/lease-book.js',
    'json',
    [JSON.stringify({ promises: { a: { epoch: 1, holder: 'b' } }, released: { a: 1 }, signed: { a: ballot } })],
    (_, path) => LeaseBook.load(new SmallFile(path)),
  ),
  smallFile('peers', 'node/identity.js', 'json', [JSON.stringify({ [apId(AP.publicKey)]: addresses })], async (dir) => {
    const known = await new KnownPeers(dir).load()
    must(
      Object.values(known)
        .flat()
        .every((address) => typeof address === 'string'),
      'an address that is no text',
    )
  }),
  smallFile(
    'mesh',
    'node/belonging.js',
    'json',
    [JSON.stringify({ meshKey: hex(OWNER.publicKey), admission: { grant: hex(bytes), member: hex(bytes) } })],
    async (dir) => {
      const { admission } = (await loadBelonging(dir)) ?? {}
      if (admission) for (const envelope of [admission.grant, admission.member]) open(unhex(envelope), MESH)
    },
  ),
  smallFile(
    'tokens',
    'node/api/tokens.js',
    'json',
    [JSON.stringify([{ id: 'a', digest: hex(key(1)), right: 'read', until: NOW }])],
    async (_, path) => {
      const tokens = await Tokens.open(new SmallFile(path), () => 0)
      tokens.list()
      tokens.rightOf('dmt_x')
    },
  ),
  smallFile('boot', 'node/identity.js', 'text', ['12\n'], async (dir) =>
    must(Number.isSafeInteger((await BootCounter.load(dir)).last), 'no number'),
  ),
  smallFile('keys/ap.key', 'node/identity.js', 'text', [`${hex(key(1))}\n`], async (dir) =>
    must((await loadSeed(join(dir, 'keys'), 'ap'))?.length === 32, 'no key'),
  ),
  smallFile(
    'config.yaml',
    'node/config.js',
    'text',
    [
      'name: a\nlisten: [/ip4/0.0.0.0/tcp/4010]\nlabel: { a: 1 }\nno-mdns: true\nprefetch-max: 2g\nhttp: "127.0.0.1:80"\n',
    ],
    (dir) => loadConfig(dir, {}, {}),
  ),
]

/** What lies in LevelDB, key by key. */
export const store: Decoder = {
  name: 'store',
  form: 'cbor',
  limit: limits.MAX_RECORD,
  seeds: [
    encode([
      ...[
        ...records.slice(0, 3).map(put),
        meta('schema', 2),
        meta('mark', { writes: 1, records: 3, sum: `${Sum.of(records.slice(0, 3))}` }),
      ].map((op) => [op.key, (op as { value: Uint8Array }).value]),
      ['event!000000000001', utf8('{"at":"x"}')],
    ]),
  ],
  reads: ['node/store/layout.js'],
  quick: 150,
  decode: (input) => {
    const all = decode(input)
    const entries = (Array.isArray(all) ? all : []).flatMap((entry) => {
      const [key, value] = Array.isArray(entry) ? entry : []
      return typeof key === 'string' && value instanceof Uint8Array ? [{ key, value }] : []
    })
    const { mark, schema } = sort(entries, true)
    must(
      mark === undefined ||
        (Number.isSafeInteger(mark.writes) && Number.isSafeInteger(mark.records) && typeof mark.sum === 'string'),
      'a mark that is none',
    )
    must(schema === undefined || Number.isSafeInteger(schema), 'a schema that is no number')
  },
}

const noted = (key: string, value: object) => [key, JSON.stringify(value)]

/** What can be read of a damaged index of packages, key by key. */
export const catalogue: Decoder = {
  name: 'catalogue',
  form: 'json',
  limit: 32 * 1024,
  seeds: [
    noted(`blob!${DIGEST}`, { size: 5, used: NOW }),
    noted(`manifest!${DIGEST}`, { refers: [DIGEST], subject: DIGEST }),
    noted('tag!a!b', { digest: DIGEST }),
    noted(`referrer!a!${DIGEST}!${DIGEST}`, {}),
  ].map((entry) => utf8(JSON.stringify(entry))),
  reads: ['node/packages/catalogue.js'],
  decode: (input) => {
    let entry: unknown
    try {
      entry = JSON.parse(text(input))
    } catch {}
    const [key, value] = Array.isArray(entry) ? entry : []
    if (typeof key === 'string' && typeof value === 'string') isWhole({ key, value: utf8(value) })
  },
}
