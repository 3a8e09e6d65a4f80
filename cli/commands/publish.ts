// `dropmesh publish`: from a folder to a running chute.
import { createReadStream } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { Readable } from 'node:stream'
import type { Command } from 'commander'
import type { InstanceRow, Status } from '../../node/api/queries.js'
import { parseLabels } from '../../node/config.js'
import { hex, sha256, unhex } from '../../protocols/bytes.js'
import { encode } from '../../protocols/codec.js'
import { remarkText } from '../../protocols/compose-remarks.js'
import { type ChuteSpec, type ImageSpec, NAME } from '../../protocols/deployment.js'
import { MeshError } from '../../protocols/error.js'
import { isGitUrl, shownUrl } from '../../protocols/git-url.js'
import { type Manifest, type ManifestService, toSpec } from '../../protocols/manifest.js'
import type { Rights } from '../../protocols/policy.js'
import type { Client } from '../client.js'
import { parseDuration } from '../duration.js'
import { ONLY_SERVICE } from '../image-alone.js'
import { signerOf, type UserSigner } from '../keys.js'
import { clientOf, forNode, type NodeOptions } from '../options.js'
import { held, paintState, print, printJson, say } from '../output.js'
import { planOf, planText, takenText } from '../publish-plan.js'
import { deploy, rightsToPublish } from '../sign.js'
import { type Source, type SourceOptions, Sources } from '../sources.js'

interface PublishOptions extends NodeOptions, SourceOptions {
  key?: string
  name?: string
  replicas?: string
  everywhere?: boolean
  exclusive?: boolean
  on?: string[]
  detach?: boolean
  dryRun?: boolean
  wait: string
}

export function addPublish(program: Command): void {
  const collect = (value: string, before: string[] | undefined) => [...(before ?? []), value]
  const command = program
    .command('publish')
    .argument('[source]', 'folder with a compose.yaml or such a file, git URL (…#REF:FOLDER), or archive of an image')
    .description('check, build, sign and publish a chute, and wait until it runs')
    .option('--key <key>', 'name, SSH key file, or agent, to sign with (default: the only named key you have)')
    .option('--name <name>', 'name of the chute (default: the name in compose.yaml, else of the folder)')
    .option('--replicas <n>', 'how many instances (default: what compose.yaml says, else 1)')
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
    const plan = planOf(name, asked, [...source.taken])
    if (options.json) printJson(plan)
    else for (const line of planText(plan)) print(line)
    return
  }
  const wait = parseDuration(options.wait, '--wait')
  const signer = await signerOf(options.key)
  const manifest = read(await rightsToPublish(client, signer, name))
  for (const note of manifest.notes) say(remarkText(note))
  if (source.taken.size > 0) say(takenText([...source.taken]))
  const spec = toSpec(manifest, await imagesOf(client, manifest, source, sources, options.image))
  await publishSpec(client, signer, name, spec, manifest.exclusive, wait, options)
}

/** One digest for all images of a chute. */
const packageOf = (spec: ChuteSpec): string => hex(sha256(encode(spec.services.map(({ image }) => image.config))))

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
      ? await rowsOf(client, name, publisher, revision)
      : await waitUntilUp(client, name, publisher, revision, wait)
  const placed = rows.map(({ instance, ap, state }) => ({ instance, ap, state }))
  if (options.json) printJson({ chute: name, revision, ...known, package: packageOf(spec), placed })
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

/** Builds or finds the image of each service, by the engine of the local node. */
async function imagesOf(
  client: Client,
  manifest: Manifest,
  { archive, folder }: Source,
  sources: Sources,
  wanted: string | undefined,
): Promise<Map<string, ImageSpec>> {
  const { docker, ap } = await client.get<Status>('/v1/status')
  if (docker === null) {
    throw new MeshError(
      'no-engine',
      `AP ${ap.name} has no container engine to build with; publish from an AP that has one`,
    )
  }
  if (archive !== undefined) return new Map([[ONLY_SERVICE, await importImage(client, archive, wanted)]])
  const images = new Map<string, ImageSpec>()
  const contextOf = (context: string) => sources.contextOf(folder, context)
  for (const service of manifest.services) images.set(service.name, await imageOf(client, service, contextOf))
  return images
}

interface ProgressLine {
  output?: string
  image?: { config: string; diffIds: string[]; platform: string; pull?: string; size?: number }
  /** Of an image of an archive: what it is called there. */
  names?: string[]
  error?: { code: string; message: string }
}

async function imageOf(
  client: Client,
  { name, source }: ManifestService,
  contextOf: (context: string) => Promise<string>,
): Promise<ImageSpec> {
  let lines: AsyncGenerator<ProgressLine>
  if ('image' in source) {
    lines = client.lines('POST', '/v1/images/resolve', {}, { ref: source.image })
  } else {
    const { context, dockerfile, args } = source.build
    const folder = await contextOf(context)
    say(`building ${name} from ${isGitUrl(context) ? shownUrl(context) : folder}`)
    // Loaded only here, since what they need takes longer to load than all the rest.
    const [{ packContext }, { usesBaseImage }] = await Promise.all([
      import('../../node/packages/build.js'),
      import('../../node/packages/base-image.js'),
    ])
    const tar: Readable = await packContext(folder, dockerfile)
    const onBaseImage = String(usesBaseImage(await readFile(join(folder, dockerfile), 'utf8')))
    lines = client.lines('POST', '/v1/images/build', { dockerfile, onBaseImage, args: JSON.stringify(args) }, tar)
  }
  for await (const { output, image, error } of lines) {
    if (output !== undefined) say(`  ${name} | ${output}`)
    if (error !== undefined) throw new MeshError(error.code, `service ${name}: ${error.message}`)
    if (image !== undefined) return readImage(name, image)
  }
  throw new MeshError('build-failed', `service ${name}: the node ended the build without a result`)
}

/** Gives the node an archive of images. @returns the one that is `wanted`, or the only one */
async function importImage(client: Client, path: string, wanted: string | undefined): Promise<ImageSpec> {
  const images: Required<Pick<ProgressLine, 'image' | 'names'>>[] = []
  say(`sending ${path}`)
  for await (const { output, image, names = [], error } of client.lines<ProgressLine>(
    'POST',
    '/v1/images/import',
    {},
    createReadStream(path),
  )) {
    if (output !== undefined) say(`  ${ONLY_SERVICE} | ${output}`)
    if (error !== undefined) throw new MeshError(error.code, `${path}: ${error.message}`)
    if (image !== undefined) images.push({ image, names })
  }
  const found = wanted === undefined ? images : images.filter(({ names }) => names.includes(wanted))
  if (found.length === 1) return readImage(ONLY_SERVICE, found[0]!.image)
  const list = images.flatMap(({ names }) => names).join(', ') || 'none with a name'
  const what = wanted === undefined ? `${images.length} images` : `no image ${wanted}`
  throw new MeshError('source', `${path} has ${what}; say which with --image: it has ${list}`)
}

function readImage(service: string, image: NonNullable<ProgressLine['image']>): ImageSpec {
  const { config, diffIds, platform, size, pull } = image
  say(`${service}: image ${config.slice(0, 12)}${size === undefined ? '' : `, ${(size / 1e6).toFixed(1)} MB`}`)
  const known = { config: unhex(config), diffIds: diffIds.map(unhex), platform }
  return { ...known, ...(size !== undefined && { size }), ...(pull !== undefined && { pull }) }
}

const isUp = (row: InstanceRow): boolean => row.state === 'healthy' || (row.state === 'running' && !row.hasHealthcheck)

const portsOf = (row: InstanceRow): string =>
  row.ports.map(({ host, container, protocol }) => `${host}->${container}/${protocol}`).join(' ')

async function rowsOf(client: Client, name: string, publisher: string, revision: number): Promise<InstanceRow[]> {
  const rows = await client.get<InstanceRow[]>('/v1/instances')
  return rows.filter(
    (row) => row.chute === name && row.publisher === publisher && (row.ap === null || row.revision >= revision),
  )
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
  for (;;) {
    const rows = await rowsOf(client, name, publisher, revision)
    for (const { instance, apName, state, reason } of rows) {
      const now = `${instance} on ${apName ?? 'no AP'}: ${state}${reason === null ? '' : `, ${reason}`}`
      if (said.get(instance) !== now) say(now)
      said.set(instance, now)
    }
    if ((rows.length > 0 && rows.every(isUp)) || performance.now() > until) return rows
    await new Promise((resolve) => setTimeout(resolve, 200))
  }
}
