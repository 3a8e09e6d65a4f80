// `dropmesh publish`: from a folder to a running chute.
import { createReadStream } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { basename, join } from 'node:path'
import type { Readable } from 'node:stream'
import { createGzip } from 'node:zlib'
import type { Command } from 'commander'
import type { InstanceRow, Status } from '../../node/api/queries.js'
import { parseLabels } from '../../node/config.js'
import { hex, unhex } from '../../protocols/bytes.js'
import { remarkText } from '../../protocols/compose-remarks.js'
import { type BuildSpec, type ChuteSpec, type ImageSpec, NAME, type PackageRef } from '../../protocols/deployment.js'
import { MeshError } from '../../protocols/error.js'
import { isGitUrl, shownUrl } from '../../protocols/git-url.js'
import { type Made, type Manifest, type ManifestService, toSpec } from '../../protocols/manifest.js'
import type { Rights } from '../../protocols/policy.js'
import type { Client } from '../client.js'
import { parseDuration } from '../duration.js'
import { ONLY_SERVICE } from '../image-alone.js'
import { signerOf, type UserSigner } from '../keys.js'
import { clientOf, forNode, type NodeOptions } from '../options.js'
import { held, megabytes, paintState, print, printJson, say } from '../output.js'
import { planOf, planText, takenText } from '../publish-plan.js'
import { deploy, rightsToPublish } from '../sign.js'
import { type Source, type SourceOptions, Sources } from '../sources.js'
import { suppliesOf } from '../supplies.js'

interface PublishOptions extends NodeOptions, SourceOptions {
  key?: string
  name?: string
  replicas?: string
  everywhere?: boolean
  exclusive?: boolean
  on?: string[]
  detach?: boolean
  wait: string
}

export function addPublish(program: Command): void {
  const collect = (value: string, before: string[] | undefined) => [...(before ?? []), value]
  const command = program
    .command('publish')
    .argument(
      '[source]',
      'folder with a compose.yaml or paradrop.yaml, such a file, git URL (…#REF:FOLDER), or image archive',
    )
    .description('check, build, sign and publish a chute, and wait until it runs')
    .option('--key <key>', 'name, SSH key file, or agent, to sign with (default: the only named key you have)')
    .option('--name <name>', 'name of the chute (default: the name in the manifest, else of the folder)')
    .option('--replicas <n>', 'how many instances (default: what the manifest says, else 1)')
    .option('--everywhere', 'one instance on every AP that fits')
    .option('--exclusive', 'each instance at most once at any time, by votes of other APs; for ever')
    .option('--image <name>', 'this image alone; of an archive, the one of this name')
    .option('-p, --port <[host:]port>', 'port of an image alone, as in "docker run", repeatable', collect)
    .option('-e, --env <k[=v]>', 'variable of an image alone, or of a manifest, repeatable', collect)
    .option('-v, --volume <name:path>', 'volume of an image alone, repeatable', collect)
    .option('--on <k=v>', 'only on APs with this label, repeatable', collect)
    .option('--profile <name>', 'with the services of this profile, repeatable (or COMPOSE_PROFILES)', collect)
    .option('--detach', 'do not wait until it runs')
    .option('--wait <time>', 'how long to wait until it runs', '2m')
    .option('--dry-run', 'say what would be built, sent and run, and what not and why; build and publish nothing')
  forNode(command, 'dropmesh publish ./hello --key alice --on site=home').action(publish)
}

async function publish(path: string | undefined, options: PublishOptions): Promise<void> {
  const client = clientOf(options)
  const sources = new Sources(client)
  try {
    await publishFrom(await sources.open(path, options), sources, client, options)
  } finally {
    sources.close()
  }
}

async function publishFrom(source: Source, sources: Sources, client: Client, options: PublishOptions): Promise<void> {
  const read = (rights: Rights) => withFlags(source.read(rights), options)
  const asked = read(['*'])
  const name = options.name ?? asked.name ?? source.name
  if (!NAME.test(name)) {
    throw new MeshError(
      'name',
      `"${name}" can be no chute's name (lower-case letters, digits and "-"); give one with --name`,
    )
  }
  if (options.dryRun) {
    const plan = planOf(name, asked, source, await suppliesOf(client, source, asked))
    if (options.json) printJson(plan)
    else for (const line of planText(plan)) print(line)
    return
  }
  const wait = parseDuration(options.wait, '--wait')
  const signer = await signerOf(options.key)
  const manifest = read(await rightsToPublish(client, signer, name))
  for (const note of manifest.notes) say(remarkText(note))
  if (source.taken.size > 0) say(takenText([...source.taken]))
  const { archive } = source
  const made =
    archive === undefined
      ? await makeServices(client, manifest, (context) => sources.contextOf(source.folder, context))
      : new Map([[ONLY_SERVICE, { images: await importImages(client, archive) }]])
  const spec = toSpec(manifest, made, await packageOf(client, [...made.values()]))
  await publishSpec(client, signer, name, spec, manifest.exclusive, wait, options)
}

/** Publishes a chute that has its images, and waits until it runs. What is `known` of it stands in the answer as well. */
export async function publishSpec(
  client: Client,
  signer: UserSigner,
  name: string,
  spec: ChuteSpec,
  isExclusive: boolean,
  wait: number,
  options: Pick<PublishOptions, 'detach' | 'json'>,
  known: object = {},
): Promise<void> {
  const { revision, desired, holders } = await deploy(client, signer, name, spec, isExclusive)
  say(`published ${name}, revision ${revision}; ${held(holders)}`)
  const publisher = hex(signer.publicKey)
  const isIdle = desired === 'stopped' || spec.replicas === 0
  if (desired === 'stopped') say(`${name} is stopped; start it with "dropmesh start ${name}"`)
  const rows =
    options.detach || isIdle
      ? (await rowsOf(client, name, publisher)).filter(isOf(revision))
      : await waitUntilUp(client, name, publisher, revision, wait)
  const placed = rows.map(({ instance, ap, state }) => ({ instance, ap, state }))
  const ref = spec.package ? hex(spec.package.digest) : null
  if (options.json) printJson({ chute: name, revision, ...known, package: ref, placed })
  else
    for (const row of rows)
      print(`${row.instance}  ${row.apName ?? '-'}  ${paintState(row.state)}  ${portsOf(row)}`.trimEnd())
  const lacking = rows.filter((row) => !isUp(row))
  if (options.detach || isIdle || (rows.length > 0 && lacking.length === 0)) return
  const why = lacking.map(
    ({ instance, state, reason }) => `${instance} is ${state}${reason === null ? '' : `: ${reason}`}`,
  )
  throw new MeshError(
    'not-up',
    `${name} is published but does not run: ${why.join('; ') || 'no AP fits'}; the mesh keeps trying, see "dropmesh ps ${name}"`,
  )
}

function withFlags(manifest: Manifest, options: PublishOptions): Manifest {
  const result = { ...manifest }
  if (options.replicas !== undefined) {
    if (!/^\d{1,4}$/.test(options.replicas))
      throw new MeshError('replicas', `--replicas "${options.replicas}": a number from 0 to 1000`)
    result.replicas = Number(options.replicas)
  }
  if (options.everywhere) {
    if (options.replicas !== undefined)
      throw new MeshError('replicas', '--replicas and --everywhere exclude each other')
    result.replicas = 'everywhere'
  }
  if (options.exclusive) result.exclusive = true
  if (result.exclusive && result.replicas === 'everywhere') {
    throw new MeshError('exclusive', 'exclusive and everywhere exclude each other: a chute runs once, or on every AP')
  }
  const on = Object.entries(parseLabels(options.on ?? [], '--on')).map(([label, value]) => ({ label, value }))
  result.constraints = [...manifest.constraints, ...on]
  return result
}

/** The folder that a build context is. */
type FolderOf = (context: string) => Promise<string>

/** Has the local node make what each service runs from, or find it. */
async function makeServices(client: Client, manifest: Manifest, folderOf: FolderOf): Promise<Map<string, Made>> {
  const { docker, ap } = await client.get<Status>('/v1/status')
  if (docker === null) {
    throw new MeshError(
      'no-engine',
      `AP ${ap.name} has no container engine to build with; publish from an AP that has one`,
    )
  }
  const made = new Map<string, Made>()
  for (const service of manifest.services) {
    const { name, source } = service
    made.set(
      name,
      'build' in source && manifest.buildsOnAp
        ? { images: [], build: await sendSources(client, name, source.build, folderOf) }
        : { images: await imagesOf(client, service, folderOf) },
    )
  }
  return made
}

/** Has the node make one package of all that services run from. */
async function packageOf(client: Client, made: readonly Made[]): Promise<PackageRef> {
  const images = made.flatMap(({ images }) => images).flatMap(({ manifest }) => manifest ?? [])
  const sources = made.flatMap(({ build }) => build?.sources ?? [])
  const roots = [...new Set([...images, ...sources].map(hex))]
  const { package: ref } = await resultOf(client.lines('POST', '/v1/packages', {}, { roots }), 'the package')
  if (ref === undefined) throw new MeshError('package', 'the node ended without a package')
  return { digest: unhex(ref.digest), size: ref.size }
}

interface ProgressLine {
  output?: string
  images?: { config: string; platform: string; size?: number; manifest?: string }[]
  /** Of each image of an archive: what it is called there. */
  archive?: { names: string[]; images: NonNullable<ProgressLine['images']> }[]
  sources?: { digest: string; size: number }
  package?: { digest: string; size: number }
  error?: { code: string; message: string }
}

/** The last of the lines, once all before it were shown. @throws MeshError of the node */
async function resultOf(lines: AsyncGenerator<ProgressLine>, what: string): Promise<ProgressLine> {
  for await (const line of lines) {
    if (line.output !== undefined) say(`  ${what} | ${line.output}`)
    else if (line.error !== undefined) throw new MeshError(line.error.code, `${what}: ${line.error.message}`)
    else return line
  }
  throw new MeshError('build-failed', `${what}: the node ended without a result`)
}

type Build = Extract<ManifestService['source'], { build: object }>['build']

/** The build context of a service as a tar, and whether it builds on the image that nodes make themselves. */
async function contextOf(
  { context, dockerfile, dockerfileInline: inline }: Build,
  folderOf: FolderOf,
): Promise<{ tar: Readable; onBaseImage: boolean }> {
  const folder = await folderOf(context)
  // Loaded only here, since what they need takes longer to load than all the rest.
  const [{ packContext }, { usesBaseImage }] = await Promise.all([
    import('../../node/packages/build.js'),
    import('../../node/packages/base-image.js'),
  ])
  const tar = await packContext(folder, dockerfile, inline)
  return { tar, onBaseImage: usesBaseImage(inline ?? (await readFile(join(folder, dockerfile), 'utf8'))) }
}

async function sendSources(client: Client, name: string, build: Build, folderOf: FolderOf): Promise<BuildSpec> {
  say(`sending the sources of ${name}, which each AP builds`)
  const { tar, onBaseImage } = await contextOf(build, folderOf)
  const { sources } = await resultOf(client.lines('POST', '/v1/sources', {}, tar.pipe(createGzip())), name)
  if (sources === undefined) throw new MeshError('build-failed', `service ${name}: the node took no sources`)
  say(`${name}: sources ${sources.digest.slice(0, 12)}, ${megabytes(sources.size)}`)
  return { sources: unhex(sources.digest), dockerfile: build.dockerfile, args: build.args, onBaseImage }
}

async function imagesOf(client: Client, { name, source }: ManifestService, folderOf: FolderOf): Promise<ImageSpec[]> {
  let lines: AsyncGenerator<ProgressLine>
  if ('image' in source) {
    lines = client.lines('POST', '/v1/images/resolve', {}, { ref: source.image })
  } else {
    const { context, dockerfile, args } = source.build
    say(`building ${name} from ${isGitUrl(context) ? shownUrl(context) : await folderOf(context)}`)
    const { tar, onBaseImage } = await contextOf(source.build, folderOf)
    const query = { dockerfile, onBaseImage: String(onBaseImage), args: JSON.stringify(args) }
    lines = client.lines('POST', '/v1/images/build', query, tar)
  }
  const { images = [] } = await resultOf(lines, name)
  return readImages(name, images)
}

/** Gives the node an archive of images. @returns those of the one that is `wanted`, or of the only one, for each platform */
async function importImages(
  client: Client,
  { file: path, image: wanted }: NonNullable<Source['archive']>,
): Promise<ImageSpec[]> {
  say(`sending ${path}`)
  const file = createReadStream(path)
  const { archive = [] } = await resultOf(client.lines('POST', '/v1/images/import', {}, file), basename(path))
  const isWanted = (name: string) => name === wanted || name === `${wanted}:latest`
  const found = wanted === undefined ? archive : archive.filter(({ names }) => names.some(isWanted))
  if (found.length === 1) return readImages(ONLY_SERVICE, found[0]!.images)
  const list = archive.flatMap(({ names }) => names).join(', ') || 'none with a name'
  const what = wanted === undefined ? `${archive.length} images` : `no image ${wanted}`
  throw new MeshError('source', `${path} has ${what}; say which with --image: it has ${list}`)
}

function readImages(service: string, images: NonNullable<ProgressLine['images']>): ImageSpec[] {
  return images.map(({ config, manifest, ...image }) => {
    const of = image.size === undefined ? '' : `, ${megabytes(image.size)}`
    say(`${service}: image ${config.slice(0, 12)} for ${image.platform}${of}`)
    return { ...image, config: unhex(config), ...(manifest !== undefined && { manifest: unhex(manifest) }) }
  })
}

const isUp = (row: InstanceRow): boolean => row.state === 'healthy' || (row.state === 'running' && !row.hasHealthcheck)

const portsOf = (row: InstanceRow): string =>
  row.ports.map(({ host, container, protocol }) => `${host}->${container}/${protocol}`).join(' ')

async function rowsOf(client: Client, name: string, publisher: string): Promise<InstanceRow[]> {
  const rows = await client.get<InstanceRow[]>('/v1/instances')
  return rows.filter((row) => row.chute === name && row.publisher === publisher)
}

const isOf =
  (revision: number) =>
  (row: Pick<InstanceRow, 'ap' | 'revision'>): boolean =>
    row.ap === null || row.revision >= revision

/** Of no other state can one tell that its AP has what it runs from. */
const RUNS: readonly InstanceRow['state'][] = ['running', 'healthy', 'unhealthy']

/** How far a revision has come in the mesh; empty where no AP is fetching it. */
export function spreadOf(
  rows: readonly Pick<InstanceRow, 'instance' | 'ap' | 'state' | 'epoch' | 'revision' | 'fetched'>[],
  revision: number,
): string {
  // What an earlier holder still runs says nothing of who is to run it.
  const last = (instance: string) =>
    Math.max(...rows.filter((row) => row.instance === instance).map(({ epoch }) => epoch))
  const held = rows.filter(({ ap, instance, epoch }) => ap !== null && epoch === last(instance))
  const isFetching = ({ state, fetched }: (typeof rows)[number]) => state === 'fetching' || fetched !== null
  const fetching = new Map(held.filter(isFetching).map(({ ap, fetched }) => [ap, fetched]))
  if (fetching.size === 0) return ''
  const running = held.filter((row) => row.revision >= revision && RUNS.includes(row.state) && !fetching.has(row.ap))
  const [runs, all] = [running, held].map((some) => new Set(some.map(({ ap }) => ap)).size)
  const known = [...fetching.values()].flatMap((fetched) => fetched ?? [])
  const share = known.length === 0 ? '' : `: ${Math.floor(known.reduce((a, b) => a + b) / fetching.size)} %`
  return `${runs} of ${all} APs have it, ${fetching.size} fetching${share}`
}

async function waitUntilUp(
  client: Client,
  name: string,
  publisher: string,
  revision: number,
  wait: number,
): Promise<InstanceRow[]> {
  const until = performance.now() + wait
  const said = new Map<string, string>()
  let spread = ''
  for (;;) {
    const all = await rowsOf(client, name, publisher)
    const rows = all.filter(isOf(revision))
    for (const { instance, apName, state, reason } of rows) {
      const now = `${instance} on ${apName ?? 'no AP'}: ${state}${reason === null ? '' : `, ${reason}`}`
      if (said.get(instance) !== now) say(now)
      said.set(instance, now)
    }
    const now = spreadOf(all, revision)
    if (now !== '' && now !== spread) say(now)
    spread = now
    if ((rows.length > 0 && rows.every(isUp)) || performance.now() > until) return rows
    await new Promise((resolve) => setTimeout(resolve, 200))
  }
}
