// The quick part of fuzzing: what was found once, and some fresh inputs that are the same in every run. README.md has the rest.
import { pino } from 'pino'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { BlobStore } from '../../node/packages/blobs.js'
import { MeshError } from '../../protocols/error.js'
import { scratch } from '../support/scratch.js'
import { Blobs } from './blobs.js'
import { readCorpus } from './corpus.js'
import type { Decoder } from './decoders/decoder.js'
import { importInto } from './decoders/packages.js'
import { DECODERS } from './decoders.js'
import { complaint, fuzz, timeOf } from './fuzz.js'

const FRESH = 250

const failing: Decoder = {
  name: 'failing',
  form: 'bytes',
  limit: 10,
  seeds: [new Uint8Array(4)],
  reads: [],
  decode: () => {},
}

test('a decoder that throws another error, never ends soon, or refuses as it should is told from the others', async () => {
  const { seeds } = failing
  const throwing = { ...failing, decode: () => (undefined as unknown as string).length }
  assert.match((await fuzz(throwing, seeds, 10, 'a')).findings[0]?.why ?? '', /TypeError/)
  const slow: Decoder = {
    ...failing,
    decode: () => {
      const before = process.cpuUsage()
      while (process.cpuUsage(before).user < 80_000);
    },
  }
  assert.match((await fuzz(slow, seeds, 0, 'a')).findings[0]?.why ?? '', /took \d+ ms/)
  const refusing: Decoder = {
    ...failing,
    decode: () => {
      throw new MeshError('malformed', 'no')
    },
  }
  assert.equal((await fuzz(refusing, seeds, 100, 'a')).findings, [])
})

test('an archive comes to the same in memory as on a disk', async () => {
  const { seeds } = DECODERS.find(({ name }) => name === 'archive')!
  const log = pino({ level: 'silent' })
  const disk = await BlobStore.open(scratch('fuzz'), { maxBytes: 2 ** 30, minFree: 0, log })
  const memory = new Blobs()
  for (const input of [...seeds, ...readCorpus('archive').map(({ input }) => input)]) {
    const [there, here] = await Promise.all(
      // Of an archive that breaks off, which of its streams says so first is chance.
      [disk, memory.store].map((store) => importInto(store, input).catch(({ code }: MeshError) => code)),
    )
    assert.equal(here, there)
    assert.equal(memory.list().sort(), disk.list().sort())
  }
  await disk.close()
})

for (const decoder of DECODERS) {
  test(`${decoder.name}: what is in the corpus and what is fresh is read, or refused with a MeshError`, async () => {
    const corpus = readCorpus(decoder.name)
    for (const { input, wasFinding } of corpus) {
      assert.is(await complaint(decoder, input), undefined, Buffer.from(input).toString('base64'))
      if (wasFinding) assert.ok((await timeOf(decoder, input)) <= 50, 'it takes longer than 50 ms')
    }
    await decoder.decode(decoder.seeds[0]!)
    const pool = [...decoder.seeds, ...corpus.map(({ input }) => input)]
    const { findings } = await fuzz(decoder, pool, decoder.quick ?? FRESH, 'quick')
    assert.equal(
      findings.map(({ why, input }) => [why, Buffer.from(input).toString('base64')]),
      [],
    )
  })
}

test.run()
