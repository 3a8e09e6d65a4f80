// What `publish --dry-run` says: what would be built, sent and run, what it takes of an AP, and what of the manifest was
// passed over and why. Pure.
import { remarkText } from '../protocols/compose-remarks.js'
import type { Manifest } from '../protocols/manifest.js'
import { asksOf, BUILD_RIGHT } from '../protocols/policy.js'
import { megabytes } from './output.js'
import type { Source } from './sources.js'
import type { Supply } from './supplies.js'

export interface PublishPlan {
  chute: string
  dryRun: true
  services: {
    name: string
    build: string | null
    /** Its sources are sent, and each AP that runs it builds them. */
    buildsOnAp: boolean
    /** The text of the Dockerfile, where the manifest has it, or it was made. */
    dockerfile: string | null
    /** Null where it is the only one of an archive. */
    image: string | null
    supply: Supply
    command: string[] | null
    ports: string[]
    mounts: string[]
    /** `db (service_healthy)`. */
    waitsFor: string[]
    cpus: number
    memory: number
  }[]
  volumes: { name: string; ephemeral: boolean }[]
  configs: { name: string; bytes: number }[]
  secrets: string[]
  replicas: number | 'everywhere'
  exclusive: boolean
  labels: Record<string, string>
  /** Rights that its publisher needs for it. */
  rights: string[]
  /** Variables whose values are taken from the environment of the command, and stand in the record. */
  variables: string[]
  notes: string[]
}

export function planOf(
  chute: string,
  manifest: Manifest,
  { archive, taken }: Source,
  supplies: ReadonlyMap<string, Supply>,
): PublishPlan {
  const { services, volumes, configs = [], replicas, exclusive, constraints } = manifest
  return {
    chute,
    dryRun: true,
    services: services.map(({ name, source, command, ports, mounts, dependsOn = [], limits }) => ({
      name,
      build: 'build' in source ? source.build.context : null,
      buildsOnAp: 'build' in source && manifest.buildsOnAp === true,
      dockerfile: ('build' in source && source.build.dockerfileInline) || null,
      image: archive ? (archive.image ?? null) : 'image' in source ? source.image : null,
      supply: supplies.get(name)!,
      command: command ?? null,
      ports: ports.map(({ container, host, protocol }) => `${host ?? 'any'}->${container}/${protocol}`),
      mounts: mounts.map(({ volume, path }) => `${volume} at ${path}`),
      waitsFor: dependsOn.map(({ service, condition }) => `${service} (${condition})`),
      cpus: limits.cpu / 1000,
      memory: limits.memory,
    })),
    volumes,
    configs: configs.map(({ name, content }) => ({ name, bytes: Buffer.byteLength(content) })),
    secrets: [...new Set(services.flatMap(({ secrets = [] }) => secrets.map(({ name }) => name)))],
    replicas,
    exclusive,
    labels: Object.fromEntries(constraints.map(({ label, value }) => [label, value])),
    rights: [
      ...new Set(services.flatMap((service) => asksOf(service).map(({ right }) => right))),
      ...(manifest.buildsOnAp ? [BUILD_RIGHT] : []),
    ],
    variables: [...taken],
    notes: manifest.notes.map(remarkText),
  }
}

/** The same for people. */
export function planText(plan: PublishPlan): string[] {
  const listed = (what: string, all: readonly string[]) => (all.length > 0 ? [`${what}: ${all.join(', ')}`] : [])
  const where = Object.entries(plan.labels).map(([label, value]) => `${label}=${value}`)
  const copies = plan.replicas === 'everywhere' ? 'one on every AP' : `${plan.replicas} on any AP`
  return [
    `${plan.chute}: ${copies}${where.length > 0 ? ` with ${where.join(', ')}` : ''}${plan.exclusive ? ', exclusive' : ''}`,
    ...plan.services.flatMap((service) => [
      `  service ${service.name}: ${sourceText(service)}, ` +
        `${service.cpus} CPUs, ${Math.round(service.memory / 1024 ** 2)} MiB`,
      ...[
        supplyText(service),
        ...(service.dockerfile?.trimEnd().split('\n') ?? []).map((line) => `| ${line}`),
        ...(service.command === null ? [] : [`runs: ${service.command.map(wordText).join(' ')}`]),
        ...listed('ports', service.ports),
        ...listed('volumes', service.mounts),
        ...listed('starts after', service.waitsFor),
      ].map((line) => `    ${line}`),
    ]),
    ...[
      ...listed(
        'volumes',
        plan.volumes.map(
          ({ name, ephemeral }) => `${name}${ephemeral ? ' (may be lost with its AP)' : ' (stays on its AP)'}`,
        ),
      ),
      ...listed(
        'configs, in the record',
        plan.configs.map(({ name, bytes }) => `${name} (${bytes} bytes)`),
      ),
      ...listed('secrets to set', plan.secrets),
      ...listed('rights it needs', plan.rights),
    ].map((line) => `  ${line}`),
    ...(plan.variables.length > 0 ? [takenText(plan.variables)] : []),
    ...plan.notes,
    'nothing was built, and nothing was published',
  ]
}

const sourceText = ({ build, buildsOnAp, image, supply }: PublishPlan['services'][number]): string => {
  if (supply.from === 'archive') return `${image === null ? 'the only image' : `image ${image}`} of an archive`
  if (build === null) return `image ${image}`
  return buildsOnAp ? `sources of ${build}, which each AP builds` : `build ${build}`
}

const PLACES = { engine: 'the engine of this AP', registry: 'the registry of this AP' }

function supplyText({ supply }: PublishPlan['services'][number]): string {
  switch (supply.from) {
    case 'archive':
      return `sent: ${supply.file}, ${sizeText(supply.bytes)}`
    case 'folder': {
      const files = supply.files === 1 ? '1 file' : `${supply.files} files`
      return `sent: ${files}, ${sizeText(supply.bytes)}, to be built by${supply.dockerfile === null ? ':' : ` ${supply.dockerfile}`}`
    }
    case 'git':
      return 'fetched when it is published, and not looked into before'
    case 'elsewhere':
      return 'not on this AP: its engine asks the registry that the name is of'
    case 'unknown':
      return `not looked for: ${supply.why}`
    default: {
      const sizes = supply.images.map(({ platform, size }) => [
        platform,
        ...(size === undefined ? [] : [sizeText(size)]),
      ])
      return `from ${PLACES[supply.from]}: ${sizes.map((one) => one.join(', ')).join('; ')}`
    }
  }
}

const sizeText = (bytes: number): string => (bytes < 1e5 ? `${bytes} bytes` : megabytes(bytes))

/** As a shell would have it. */
const wordText = (word: string): string => (/^[\w./:=,@%+-]+$/.test(word) ? word : JSON.stringify(word))

export const takenText = (variables: readonly string[]): string =>
  `from your environment, and readable in the record: ${variables.join(', ')}`
