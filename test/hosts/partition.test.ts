// What becomes of the ledger, and of an exclusive chute, when links break: four APs with a network and an engine each. All
// that is published anywhere while they cannot reach each other must be on all of them when they can, and whatever happens
// no two containers of the exclusive chute ever live at one time, by what the kernel says, on one clock.
import Docker from 'dockerode'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { deploy } from '../../cli/sign.js'
import type { ChuteRow } from '../../node/api/queries.js'
import { hex } from '../../protocols/bytes.js'
import { chuteSpec } from '../../protocols/deployment.js'
import { apSigner, type Signer } from '../../protocols/keys.js'
import { seed } from '../node/realm.js'
import { ensureBusybox } from '../support/busybox.js'
import { Copies } from '../support/copies.js'
import { type Host, type Hosts, makeHosts, whyNoHosts } from '../support/hosts.js'
import { eventually, on, type TestAp, TestMesh } from '../support/mesh.js'

const obstacle = whyNoHosts()
const partition = suite(`partition${obstacle ? ` (skipped: ${obstacle})` : ''}`)
// Where the whole check runs, a machine that cannot do this is a failure.
const test = obstacle && !process.env.CI ? partition.skip : partition

/** From the moment a link is whole: redialling takes 20 s at most, the rest is sync. */
const HEALED = 40_000
const FLAPPING = 20_000

const mesh = new TestMesh()
const MARKER = `31536000.${process.pid}`
const copies = new Copies(MARKER)
let lan: Hosts
let aps: [TestAp, TestAp, TestAp, TestAp]
const hostOf = (ap: TestAp): Host => lan.hosts[aps.indexOf(ap)]!

partition.before(async () => {
  if (obstacle) return
  lan = await makeHosts(4, { docker: true })
  await Promise.all(lan.hosts.map(({ engine }) => ensureBusybox(new Docker({ socketPath: engine!.socket }))))
  const first = await mesh.add('ap1', on(lan.hosts[0]!))
  for (const [i, host] of lan.hosts.slice(1).entries()) {
    await mesh.add(`ap${i + 2}`, { ...on(host), join: await mesh.invite(first) })
  }
  await mesh.settled()
  aps = mesh.aps as typeof aps
  for (const { publicKey } of publishers) assert.is((await first.cli('grant', hex(publicKey))).status, 0)
  await mesh.publish(first, 'once', { command: ['sleep', MARKER] }, ['--exclusive'])
})
partition.after(async () => {
  copies.stop()
  await mesh.close()
  lan?.close()
})
partition.after.each(() => lan?.heal())

/** Leaves the first two and the last two each other. */
function cutInTwo(): void {
  for (const here of lan.hosts.slice(0, 2)) {
    for (const there of lan.hosts.slice(2)) {
      lan.block(here, there)
      lan.block(there, here)
    }
  }
}

/** The AP that runs the exclusive chute, and the three others. */
async function holderFirst(): Promise<TestAp[]> {
  const row = await eventually('the exclusive chute to have an AP', async () =>
    (await aps[0].instances()).find(({ chute, state }) => chute === 'once' && state === 'running'),
  )
  return [...aps].sort((a, b) => Number(b.id === row.ap) - Number(a.id === row.ap))
}

/** A test after which no two containers of the exclusive chute may ever have lived at one time, and one lives again. */
const scene = (promise: string, play: () => Promise<void>) =>
  test(promise, async () => {
    await play()
    lan.heal()
    await eventually('the exclusive chute to run', () => copies.alive().length === 1)
    assert.equal(copies.twins(), [])
  })

const spec = (memory: number) =>
  chuteSpec.parse({
    services: [
      {
        name: 'web',
        images: [{ config: new Uint8Array(32), platform: 'linux/amd64' }],
        environment: {},
        ports: [],
        mounts: [],
        tmpfs: [],
        stopGrace: 0,
        limits: { cpu: 100, memory: memory * 2 ** 20, pids: 10 },
      },
    ],
    volumes: [],
    replicas: 1,
    // None of them is to run anywhere.
    constraints: [{ label: 'nowhere', value: 'true' }],
  })

/** Those that may publish, each for one test: granted before anything is cut. */
const publishers = Array.from({ length: 6 }, () => apSigner(seed()))
const publisher = (): Signer => publishers.pop()!

/** What was published and acknowledged: name by publisher. */
const acknowledged = new Map<string, string>()

/** Publishes as the command line does, and resolves when the AP has acknowledged it. */
async function publish(ap: TestAp, signer: Signer, name: string, memory = 8): Promise<number> {
  const { revision } = await deploy(ap.client, signer, name, spec(memory), false)
  acknowledged.set(`${hex(signer.publicKey)}/${name}`, name)
  return revision
}

const digestOf = async (ap: TestAp): Promise<string> => (await ap.status()).ledger.digest

async function sameEverywhere(deadlineMs = HEALED): Promise<void> {
  await eventually(
    'all to hold the same ledger',
    async () => new Set(await Promise.all(aps.map(digestOf))).size === 1,
    { deadlineMs },
  )
  // What follows from a ledger is looked at a moment after it has come.
  for (const ap of aps) {
    await eventually(
      `${ap.name} to have all that was acknowledged`,
      async () => {
        const rows = await ap.client.get<ChuteRow[]>('/v1/chutes')
        const known = new Set(rows.map(({ publisher, chute }) => `${publisher}/${chute}`))
        const lost = [...acknowledged.keys()].filter((chute) => !known.has(chute))
        if (lost.length > 0) throw new Error(`not there: ${lost}`)
        return true
      },
      { deadlineMs: 5000 },
    )
  }
}

scene(
  'what is published on two sides of a partition is on both when it is over, and of one revision the later one wins',
  async () => {
    const [one, two, three, four] = aps
    const signer = publisher()
    assert.is(await publish(one, signer, 'both'), 1)
    await sameEverywhere()
    for (const here of [one, two]) {
      for (const there of [three, four]) {
        lan.block(hostOf(here), hostOf(there))
        lan.block(hostOf(there), hostOf(here))
      }
    }
    for (const [i, ap] of aps.entries()) {
      for (let n = 0; n < 5; n++) await publish(ap, signer, `side-${i}-${n}`)
    }
    assert.is(await publish(one, signer, 'both', 16), 2)
    assert.is(await publish(three, signer, 'both', 32), 2)
    assert.is(await digestOf(one), await digestOf(two))
    assert.is(await digestOf(three), await digestOf(four))
    assert.is.not(await digestOf(one), await digestOf(three))

    lan.heal()
    await sameEverywhere()
    for (const ap of aps) {
      const { spec, history } = await ap.client.get<{
        spec: { services: { limits: { memory: number } }[] }
        history: { revision: number }[]
      }>('/v1/inspect', { of: `${hex(signer.publicKey)}/both` })
      assert.is(spec.services[0]!.limits.memory, 32 * 2 ** 20)
      assert.equal(
        history.map(({ revision }) => revision),
        [2, 2, 1],
      )
    }
  },
)

scene('what a publisher revoked on one side signs on the other counts nowhere when they meet', async () => {
  const [one, , three] = aps
  const signer = publisher()
  const key = hex(signer.publicKey)
  await publish(one, signer, 'before')
  await sameEverywhere()
  cutInTwo()
  assert.is((await one.cli('revoke', key)).status, 0)
  for (const name of ['before', 'after']) await deploy(three.client, signer, name, spec(16), false)
  assert.is.not(await digestOf(one), await digestOf(three))
  lan.heal()
  await sameEverywhere()
  for (const ap of aps) {
    const look = (name: string) =>
      ap.client.get<{
        notAllowed: string | null
        spec: { services: { limits: { memory: number } }[] }
        history: { revision: number; notAllowed: string | null }[]
      }>('/v1/inspect', { of: `${key}/${name}` })
    const kept = await look('before')
    assert.is(kept.spec.services[0]!.limits.memory, 8 * 2 ** 20)
    assert.equal(
      kept.history.map(({ revision, notAllowed }) => [revision, notAllowed]),
      [
        [2, 'the key was revoked'],
        [1, null],
      ],
    )
    assert.is((await look('after')).notAllowed, 'the key was revoked')
  }
})

scene('of two copies that were made on two sides one ends, and its data is kept, which events say', async () => {
  const [one, two, three, four] = aps
  const service = { command: ['sleep', '1000000'], user: 'app', volumes: ['data:/data'] }
  const more = { volumes: { data: {} } }
  await mesh.publish(one, 'twice', service, ['--replicas', '0'], more)
  await sameEverywhere()
  cutInTwo()
  for (const ap of [one, three]) await mesh.publish(ap, 'twice', service, ['--replicas', '1'], more)
  lan.heal()
  await sameEverywhere()
  const kept = await eventually('one to have kept a branch', async () => {
    const found = await Promise.all(
      [one, two, three, four].map(async (ap) => {
        const event = (await ap.events()).find(({ kind }) => kind === 'branch-kept')
        return event === undefined ? [] : [{ ap, event }]
      }),
    )
    return found.flat().length > 0 && found.flat()
  })
  assert.is(kept.length, 1)
  const [{ ap, event }] = kept as [(typeof kept)[number]]
  assert.equal([event.instance, event.volumes], ['twice.0', ['data']])
  assert.is.not(event.holder, ap.id)
  const engine = new Docker({ socketPath: hostOf(ap).engine!.socket })
  const filters = { label: ['dropmesh.chute=twice'] }
  assert.is((await engine.listVolumes({ filters })).Volumes.length, 1)
  assert.is((await engine.listContainers({ all: true, filters })).length, 0)
  // The revision that counts may be the other one's, and then the copy that goes on is made anew.
  await eventually('the other one to run', async () => {
    const rows = (await ap.instances()).filter(({ chute }) => chute === 'twice')
    return rows.length === 1 && rows[0]!.ap === event.holder && rows[0]!.state === 'running'
  })
})

scene('what an AP cannot send to another gets there by way of the others', async () => {
  const [one, two] = aps
  lan.block(hostOf(one), hostOf(two))
  await publish(one, publisher(), 'round-about')
  await eventually(
    'the one that does not hear it to have it',
    async () => (await digestOf(two)) === (await digestOf(one)),
  )
})

scene('an AP that is heard by nobody keeps what is published on it, and hands it over when it is', async () => {
  const [one, ...others] = (await holderFirst()) as typeof aps
  for (const other of others) lan.block(hostOf(one), hostOf(other))
  const signer = publisher()
  await eventually('it to have lost the others', async () => (await one.status()).peers === 0)
  await publish(one, signer, 'unheard')
  await publish(others[0]!, signer, 'heard')
  lan.heal()
  await sameEverywhere()
})

scene('where a third of all packets is lost, what is published still gets everywhere', async () => {
  lan.lose(30)
  const signer = publisher()
  for (const [i, ap] of aps.entries()) {
    await eventually('an AP to acknowledge', () => publish(ap, signer, `lossy-${i}`).then(() => true))
  }
  await sameEverywhere(90_000)
})

scene('while a link goes on and off nothing that was acknowledged is lost', async () => {
  const [four, one] = (await holderFirst()) as typeof aps
  const signer = publisher()
  const endsAt = performance.now() + FLAPPING
  for (let n = 0; performance.now() < endsAt; n++) {
    if (n % 2 === 0) lan.cut(hostOf(four))
    else lan.heal(hostOf(four))
    const nextAt = performance.now() + 500 + 700 * (n % 5)
    // One that cannot be told to be safe in time is published again, as a person would.
    await Promise.all([one, four].map((ap) => publish(ap, signer, `flap-${ap.name}-${n}`).catch(() => {})))
    await new Promise((resolve) => setTimeout(resolve, Math.max(0, nextAt - performance.now())))
  }
  lan.heal()
  await sameEverywhere()
})

partition.run()
