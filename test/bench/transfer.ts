// Blobs between APs, each a process of its own that only carries them: how fast one gives a blob to another, how soon eight have it
// that each hang on a limited link, beside Debian's docker-registry on one of those links, and what liars and power cuts cost them.
import type { ChildProcess } from 'node:child_process'
import { createHash, randomBytes } from 'node:crypto'
import { mkdirSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { type Host, type Hosts, makeHosts, needTools } from '../support/hosts.js'
import { scratch } from '../support/scratch.js'
import { until } from '../support/until.js'
import type { BlobName, Fetched } from './carrier.js'
import { type Carrier, carriers } from './carriers.js'
import { median, repeat, report, summary } from './measure.js'

const RUNS = 5
/** Of what takes minutes. */
const LONG_RUNS = 3
const MB = 1e6
/** Megabits a second of each link, up and down. */
const LINK = 100
const APS = 8
const LAYERS = [190 * MB, 4 * MB, 3 * MB, 1 * MB, 1 * MB, 1 * MB]
const LAYER_CHANGED = 1 * MB
/** Bytes that the eight fetch while some of them lie or die. */
const CONTESTED = 60 * MB
const BAD = 3

export async function transfer(): Promise<void> {
  await oneToOne()
  const lan = await makeHosts(APS + 1)
  try {
    for (const host of lan.hosts) lan.limit(host, LINK)
    await oneToEight(lan)
    await amongTheBad(lan)
  } finally {
    lan.close()
  }
}

/** One AP to one AP over loopback, disk to disk. */
async function oneToOne(): Promise<void> {
  const all = await carriers(2)
  const [from, to] = all as [Carrier, Carrier]
  try {
    for (const size of [200 * MB, 1000 * MB]) {
      const blob = await from.make(size)
      const received: Fetched[] = []
      const sent: { cpu: number; memory: number }[] = []
      const speeds = await repeat(RUNS, async () => {
        await from.usage()
        const got = await to.fetch([blob], [from])
        received.push(got)
        sent.push(await from.usage())
        await to.forget([blob])
        return size / MB / (got.ms / 1000)
      })
      const used = (of: readonly { cpu: number; memory: number }[]) => [
        summary(
          of.map(({ cpu }) => cpu / (size / MB)),
          'ms of CPU a MB',
        ),
        `${summary(
          of.map(({ memory }) => memory / MB),
          'MB more memory',
          0,
        )}`,
      ]
      report(`A blob of ${size / MB} MB from one AP to another over loopback, from disk to disk, on disk at the end`, [
        summary(speeds, 'MB/s', 0),
        `receiver  ${used(received).join(', ')}`,
        `sender    ${used(sent).join(', ')}`,
      ])
      await from.forget([blob])
    }
  } finally {
    for (const carrier of all) carrier.stop()
  }
}

/** A set of blobs to one AP, to eight, from a registry to eight; then the same set with one layer changed. */
async function oneToEight(lan: Hosts): Promise<void> {
  const all = await carriers(APS + 1, lan.hosts)
  const [from, ...aps] = all as [Carrier, ...Carrier[]]
  const [first, ...others] = lan.hosts as [Host, ...Host[]]
  const registry = await Registry.start(first)
  try {
    const [one, eight, theirs, share, cpu, moved]: number[][] = [[], [], [], [], [], []]
    await repeat(LONG_RUNS, async () => {
      const blobs: BlobName[] = []
      for (const size of LAYERS) blobs.push(await from.make(size))
      one!.push((await aps[0]!.fetch(blobs, [from])).ms / 1000)
      await aps[0]!.forget(blobs)
      // Others than those that it gave to one just now.
      for (const [i, size] of LAYERS.entries()) blobs[i] = await from.make(size)
      const sentBefore = (await wire(first)).sent
      for (const ap of all) await ap.usage()
      const got = await Promise.all(aps.map((ap) => ap.fetch(blobs, [from])))
      eight!.push(Math.max(...got.map(({ ms }) => ms)) / 1000)
      share!.push(((await wire(first)).sent - sentBefore) / total(LAYERS))
      const usages = await Promise.all(all.map((ap) => ap.usage()))
      cpu!.push(usages.reduce((sum, usage) => sum + usage.cpu, 0) / 1000 / eight!.at(-1)!)
      const changed = await from.make(LAYER_CHANGED)
      const before = await Promise.all(others.map(wire))
      await Promise.all(aps.map((ap) => ap.fetch([...blobs.slice(0, -1), changed], [from])))
      const after = await Promise.all(others.map(wire))
      for (const [i, { received }] of after.entries()) moved!.push((received - before[i]!.received) / MB)
      for (const ap of all) await ap.forget([...blobs, changed])
      theirs!.push(await registry.pullBy(others))
      return 0
    })
    const ratio = (of: number[]) => `${(median(of) / median(one!)).toFixed(2)} times as long as one copy`
    report(`${total(LAYERS) / MB} MB in ${LAYERS.length} blobs to ${APS} APs, ${LINK} Mbit/s up and down each`, [
      `one AP has it         ${summary(one!, 's', 1)}; the link alone takes ${(total(LAYERS) * 8) / LINK / MB} s`,
      `all APs have it       ${summary(eight!, 's', 1)}, ${ratio(eight!)}; target 1.5`,
      `its source sends it   ${summary(share!, 'times')}`,
      `CPU of all ${APS + 1} APs     ${summary(cpu!, 'cores')}`,
      `docker-registry, to ${APS} skopeo copy   ${summary(theirs!, 's', 1)}, ${ratio(theirs!)}`,
    ])
    report(`The same with one layer of ${LAYER_CHANGED / MB} MB changed`, [
      `received by each AP   ${summary(moved!, 'MB on the wire')}; target 1.2`,
    ])
  } finally {
    registry.stop()
    for (const carrier of all) carrier.stop()
  }
}

/** The same blob to eight APs, of which some do their worst. */
async function amongTheBad(lan: Hosts): Promise<void> {
  const times: Record<string, number[]> = {}
  const named: number[] = []
  const ways: Record<string, (bad: Carrier[]) => Promise<unknown>> = {
    'all are honest': async () => {},
    [`${BAD} of them lie`]: (bad) => Promise.all(bad.map((ap) => ap.lie())),
    [`${BAD} of them die half way`]: async (bad) => {
      await new Promise((resolve) => setTimeout(resolve, (CONTESTED * 8 * 1000) / LINK / MB / 2))
      for (const ap of bad) ap.kill()
    },
  }
  await repeat(LONG_RUNS, async () => {
    for (const [way, worst] of Object.entries(ways)) {
      const all = await carriers(APS + 1, lan.hosts)
      const [from, ...aps] = all as [Carrier, ...Carrier[]]
      try {
        const [bad, good] = [aps.slice(0, BAD), aps.slice(BAD)]
        const blob = await from.make(CONTESTED)
        const lying = way.endsWith('lie') ? worst(bad) : undefined
        await lying
        for (const ap of bad) ap.fetch([blob], [from]).catch(() => {}) // that it ends is all the same
        const fetched = Promise.all(good.map((ap) => ap.fetch([blob], [from])))
        if (lying === undefined) await worst(bad)
        const got = await fetched
        times[way] = [...(times[way] ?? []), Math.max(...got.map(({ ms }) => ms)) / 1000]
        if (lying !== undefined) named.push(new Set(got.flatMap(({ lies }) => lies)).size)
      } finally {
        for (const carrier of all) carrier.stop()
      }
    }
    return 0
  })
  const honest = median(times['all are honest']!)
  report(`${CONTESTED / MB} MB to ${APS} APs of ${LINK} Mbit/s, until the last honest one has it`, [
    ...Object.entries(times).map(
      ([way, of]) => `${way.padEnd(24)}${summary(of, 's', 1)}, ${(median(of) / honest).toFixed(2)} times`,
    ),
    `liars that were named   ${summary(named, `of ${BAD}`, 0)}`,
  ])
}

const total = (sizes: readonly number[]): number => sizes.reduce((sum, size) => sum + size, 0)

/** Bytes that a host has received and sent so far, headers of all layers included. */
async function wire(host: Host): Promise<{ received: number; sent: number }> {
  const { stdout } = await host.run(['cat', '/proc/net/dev'])
  const [, counts] = /eth0:\s*(.*)/.exec(stdout)!
  const fields = counts!.split(/\s+/).map(Number)
  return { received: fields[0]!, sent: fields[8]! }
}

/** Debian's docker-registry on a host, with an image of the same layers. */
class Registry {
  private constructor(
    private readonly image: string,
    private readonly dir: string,
    private readonly child: ChildProcess,
  ) {}

  static async start(host: Host): Promise<Registry> {
    needTools(['skopeo', 'docker-registry'])
    const dir = scratch('bench-registry')
    mkdirSync(join(dir, 'data'))
    const config = {
      version: 0.1,
      log: { level: 'error', accesslog: { disabled: true } },
      storage: { filesystem: { rootdirectory: join(dir, 'data') }, cache: { blobdescriptor: 'inmemory' } },
      http: { addr: `${host.address}:5000` },
    }
    writeFileSync(join(dir, 'config.yml'), JSON.stringify(config)) // JSON is YAML
    const child = host.exec(['docker-registry', 'serve', join(dir, 'config.yml')], { stdio: 'ignore' })
    const registry = new Registry(`docker://${host.address}:5000/bench/image:v1`, dir, child)
    writeImage(join(dir, 'image'))
    await until('docker-registry to have the image', () =>
      skopeo(host, ['--preserve-digests', '--dest-tls-verify=false', `oci:${dir}/image`, registry.image]),
    )
    return registry
  }

  /** Seconds until all of them have the image. */
  async pullBy(hosts: readonly Host[]): Promise<number> {
    const before = performance.now()
    await Promise.all(
      hosts.map((host, i) => skopeo(host, ['--src-tls-verify=false', this.image, `dir:${this.dir}/pulled${i}`])),
    )
    const seconds = (performance.now() - before) / 1000
    for (const [i] of hosts.entries()) rmSync(join(this.dir, `pulled${i}`), { recursive: true })
    return seconds
  }

  stop(): void {
    this.child.kill('SIGKILL')
  }
}

async function skopeo(host: Host, args: readonly string[]): Promise<true> {
  const { code, stderr } = await host.run(['skopeo', '--insecure-policy', 'copy', ...args], { deadlineMs: 600_000 })
  if (code !== 0) throw new Error(`skopeo copy ${args.join(' ')} failed: ${stderr}`)
  return true
}

/** Writes an image of random layers as an OCI layout. What is in a layer no one looks at. */
function writeImage(dir: string): void {
  mkdirSync(join(dir, 'blobs/sha256'), { recursive: true })
  const put = (mediaType: string, bytes: Buffer) => {
    const hash = createHash('sha256').update(bytes).digest('hex')
    writeFileSync(join(dir, 'blobs/sha256', hash), bytes)
    return { mediaType, digest: `sha256:${hash}`, size: bytes.length }
  }
  const json = (mediaType: string, what: object) => put(mediaType, Buffer.from(JSON.stringify(what)))
  const layers = LAYERS.map((size) => put('application/vnd.oci.image.layer.v1.tar', randomBytes(size)))
  const rootfs = { type: 'layers', diff_ids: layers.map(({ digest }) => digest) }
  const config = json('application/vnd.oci.image.config.v1+json', { os: 'linux', architecture: 'amd64', rootfs })
  const manifest = json('application/vnd.oci.image.manifest.v1+json', { schemaVersion: 2, config, layers })
  writeFileSync(join(dir, 'index.json'), JSON.stringify({ schemaVersion: 2, manifests: [manifest] }))
  writeFileSync(join(dir, 'oci-layout'), JSON.stringify({ imageLayoutVersion: '1.0.0' }))
}
