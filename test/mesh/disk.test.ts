// What a node does about a disk that has damaged its ledger, has lost it, or is full.
import { readdirSync, rmSync, statSync, truncateSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { unhex } from '../../protocols/bytes.js'
import { chuteSubject, newCreation } from '../../protocols/chute.js'
import type { Clock } from '../../protocols/clock.js'
import { seal } from '../../protocols/envelope.js'
import { personSigner } from '../../protocols/keys.js'
import { ensureBusybox } from '../support/busybox.js'
import { Disk, inOwnMounts, whyNoDisks } from '../support/disks.js'
import { eventually, type TestAp, TestMesh } from '../support/mesh.js'
import { freePort } from '../support/scratch.js'

const obstacle = whyNoDisks()
if (obstacle === undefined) inOwnMounts(import.meta.url)
else console.log(`skipped: ${obstacle}`)
const onDisks = obstacle === undefined ? test : test.skip

const mesh = new TestMesh()
let ap1: TestAp
let ap2: TestAp
test.before(async () => {
  await ensureBusybox(mesh.docker)
  // Both are down at once here, and have to find each other again.
  const listen = await Promise.all([1, 2].map(async () => `/ip4/127.0.0.1/tcp/${await freePort()}`))
  await mesh.start(2, (i) => ({ labels: [`number=${i}`], listen: listen[i - 1]! }))
  ;[ap1, ap2] = mesh.aps as [TestAp, TestAp]
  assert.is((await mesh.cli(['keys', 'new', 'alice'])).status, 0)
})
test.after(() => mesh.close())

const ledgerOf = (ap: TestAp) => join(ap.data, 'ledger')

const warningOf = async (ap: TestAp): Promise<string> =>
  (await ap.status()).warnings.find((warning) => warning.includes('was damaged')) ?? ''

const bootOf = async (ap: TestAp): Promise<number> =>
  (await ap.events()).filter(({ kind }) => kind === 'up').at(-1)!.boot as number

test('after a repair nothing starts before a sync, however often it is started; then what is wanted does, and nothing that was removed', async () => {
  for (const name of ['kept', 'gone']) await mesh.publish(ap1, name, {}, ['--on', 'number=2'])
  const boot = await bootOf(ap2)
  await ap2.crash()
  assert.is((await ap1.cli('rm', 'gone')).status, 0)
  await ap1.stop('SIGKILL')
  for (const name of readdirSync(ledgerOf(ap2))) {
    const path = join(ledgerOf(ap2), name)
    if (name.endsWith('.log')) truncateSync(path, statSync(path).size - 200)
  }
  rmSync(join(ledgerOf(ap2), 'CURRENT'))
  for (const start of [1, 2]) {
    await ap2.start()
    // In the dark an AP that has lost nothing waits five seconds.
    const alone = performance.now()
    await eventually('more than that to go by', () => performance.now() - alone > 6000)
    assert.match(await warningOf(ap2), /nothing is started here before this AP has synced with another/)
    for (const name of ['kept', 'gone']) {
      const running = (await mesh.containers(name)).filter((container) => container.running)
      assert.equal(running, [], `${name} runs`)
    }
    assert.is((await ap2.events()).filter(({ kind }) => kind === 'repaired').length, 1)
    assert.is(await bootOf(ap2), boot + start)
    await ap2.stop('SIGKILL')
  }
  await ap2.start()
  await ap1.start()
  await mesh.settled()
  await eventually('what is wanted to run', async () =>
    (await mesh.containers('kept')).some((container) => container.running && container.ap === ap2.id),
  )
  assert.equal(
    (await mesh.containers('gone')).filter((container) => container.running),
    [],
  )
  assert.match(await warningOf(ap2), /what others have is back/)
})

for (const number of [1, 2]) {
  const who = number === 1 ? 'the AP that founded the mesh' : 'an AP that joined it'
  test(`${who}, having lost its whole ledger, gets it back from another one and is who it was`, async () => {
    const ap = mesh.aps[number - 1]!
    const before = await ap.status()
    const boot = await bootOf(ap)
    await ap.stop('SIGKILL')
    rmSync(ledgerOf(ap), { recursive: true })
    await ap.start()
    await mesh.settled()
    const after = await ap.status()
    assert.equal([after.ap, after.mesh, after.role], [before.ap, before.mesh, before.role])
    assert.is(await bootOf(ap), boot + 1)
    assert.match(await warningOf(ap), /what others have is back/)
    await eventually('what is wanted to run', async () =>
      (await mesh.containers('kept')).some((container) => container.running && container.ap === ap2.id),
    )
  })
}

onDisks(
  'a node whose disk is full stays up, says so, refuses records, and goes on by itself once there is room',
  async () => {
    const solo = new TestMesh()
    const disk = new Disk(40, join(solo.dir, 'full'))
    try {
      const node = await solo.add('full')
      const signer = personSigner(new Uint8Array(32).fill(3))
      const publisher = Buffer.from(signer.publicKey).toString('hex')
      assert.is((await node.cli('grant', publisher)).status, 0)
      let count = 0
      const submit = async () => {
        const name = `chute-${count++}`
        const next = await node.client.get<{ mesh: string; clock: Clock }>('/v1/next', { publisher, name })
        const creation = newCreation(0, new Uint8Array(8))
        const body = { creation, desired: 'stopped', restarts: 0, padding: new Uint8Array(3_500) }
        const subject = chuteSubject(signer.publicKey, name)
        const { bytes } = seal(signer, unhex(next.mesh), next.clock, 'wanted', subject, body)
        return node.client.post<{ hash: string }>('/v1/records', bytes)
      }
      const makeRoom = disk.fill(300_000)
      const refusal = await eventually('a record to be refused', () =>
        submit().then(
          () => undefined,
          (error: { code: string; message: string }) => error,
        ),
      )
      assert.is(refusal.code, 'disk')
      assert.match(refusal.message, /No space left on device.*free some space there/)
      assert.match((await node.status()).warnings.join(), /No space left on device/)
      assert.ok((await node.events()).length > 0)
      makeRoom()
      await eventually('the node to go on', async () => !(await node.status()).warnings.join().includes('No space'))
      await submit()
      const { ledger } = await node.status()
      await node.stop('SIGKILL')
      await node.start()
      assert.equal((await node.status()).ledger, ledger)
      assert.is(await warningOf(node), '')
    } finally {
      await solo.close()
    }
  },
)

test.run()
