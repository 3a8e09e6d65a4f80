// How the parts of a paradrop.yaml are read, one reader each: what runs, from what it is made, its ports and interfaces.
// ParaDrop's schema and its code disagreed; what either took is taken.
import {
  attempt,
  byKind,
  defined,
  fields,
  items,
  list,
  type Placed,
  parsing,
  placed,
  plain,
  type Reader,
  text,
  textOrNumber,
  within,
} from './compose-reader.js'
import { HOST, ownPath } from './compose-service.js'
import * as compose from './compose-values.js'
import { chuteSpec, type ServiceSpec } from './deployment.js'
import { MeshError } from './error.js'
import { commandWords } from './paradrop-light.js'

const SERVICE_SPEC = chuteSpec.shape.services.element.shape

type Port = ServiceSpec['ports'][number]

/** True and false as YAML 1.1 has them, by which ParaDrop read. */
const truth = parsing((word) => {
  const is = word.toLowerCase()
  if (['true', 'yes', 'on'].includes(is)) return true
  if (['false', 'no', 'off'].includes(is)) return false
  throw new MeshError('manifest', 'must be true or false, not text')
})
export const flag = byKind({ flag: truth, text: truth })

const anyText = byKind({ text: plain, number: (value) => value.text(), flag: (value) => value.text() })

export const command = placed(
  within(
    SERVICE_SPEC.command,
    byKind<string[]>({
      text: parsing(commandWords),
      list: (value) => {
        const words = value.list().map((item) => anyText(item))
        return words.every((word) => word !== undefined) ? words : undefined
      },
    }),
  ),
)

/** A map. What has no value is no variable, as in ParaDrop. */
export const environment = within(
  SERVICE_SPEC.environment,
  byKind<Record<string, string>>({
    nothing: () => ({}),
    map: (value) =>
      Object.fromEntries(
        [...value.map()].flatMap(([key, at]) => {
          const name = attempt(at, key, compose.variableName)
          if (at.kind === 'nothing') at.note('has no value, and is left out')
          const is = at.kind === 'nothing' ? undefined : anyText(at)
          return name === undefined || is === undefined ? [] : [[name, is]]
        }),
      ),
  }),
)

// --- Where sources are ---------------------------------------------------------------------------------------------------

/** A folder of the manifest's own, a git repository, or an archive on the web. */
export type Source = { folder: string } | { git: string; ref?: string } | { archive: string }

/** What ParaDrop took for a repository, whatever `type` said: over http it got all else as an archive. */
const GITHUB = /^https?:\/\/github\.com\/[\w-]+\/[\w.-]+$/

const GIT_URL = /^(https?|git):\/\/[^\s#@]+$|^ssh:\/\/([\w.-]+@)?[^\s#@]+$/

function gitUrl(text: string): string {
  const url = text.replace(/^git@([\w.-]+):/, 'ssh://git@$1/')
  if (GIT_URL.test(url) && url.length <= 512) return url
  throw new MeshError(
    'manifest',
    `${JSON.stringify(text.slice(0, 60))} is no URL of a git repository, without a password`,
  )
}

function gitRef(ref: string): string {
  if (/^\w[\w./-]{0,199}$/.test(ref) && !ref.includes('..')) return ref
  throw new MeshError('manifest', `${JSON.stringify(ref.slice(0, 60))} is no branch, tag or commit`)
}

const NO_PASSWORDS = 'a password does not belong into a manifest: publish the folder'
const SOURCE = fields(
  {
    type: text(compose.oneOf('git', 'http', 'inline')),
    url: placed(plain),
    checkout: textOrNumber(gitRef),
    branch: textOrNumber(gitRef),
  },
  { refused: { user: NO_PASSWORDS, secret: NO_PASSWORDS } },
)

export const source = placed(
  byKind<Source>({
    text: (value) => {
      const is = value.text()
      if (is === undefined || !/^[a-z][a-z0-9+.-]*:\/\/|^git@/i.test(is)) {
        const folder = ownPath(value)
        return folder === undefined ? undefined : { folder }
      }
      const git = attempt(value, is, gitUrl)
      return git === undefined ? undefined : { git }
    },
    map: (value) => {
      const read = SOURCE(value) ?? {}
      const { url, checkout: ref = read.branch } = read
      if (read.type === 'inline') return { folder: '.' }
      if (url === undefined) return value.refuse('needs a url')
      if (read.type === 'http' && !GITHUB.test(url.is)) return { archive: url.is }
      const git = attempt(url.at, url.is, gitUrl)
      return git === undefined ? undefined : { git, ...defined({ ref }) }
    },
  }),
)

// --- Ports ---------------------------------------------------------------------------------------------------------------

const BINDING = fields({ external: textOrNumber(compose.port), internal: textOrNumber(compose.port) })

/** The schema's list of `{external, internal}`, or the code's map, of a port in the container to one of the AP. */
const portBindings = byKind<Placed<Port>[]>({
  nothing: () => [],
  list: items(
    placed((value) => {
      const read = BINDING(value) ?? {}
      if (!('internal' in read)) value.refuse('needs internal, the port in the container')
      if (read.internal === undefined) return undefined
      return { container: read.internal, protocol: 'tcp' as const, ...defined({ host: read.external }) }
    }),
  ),
  map: (value) =>
    [...value.map(true)].flatMap(([key, at]) => {
      const is = attempt(at, key, (own) => {
        if (own.includes(':'))
          throw new MeshError('manifest', 'the key is the port in the container: 8080, or 8080/udp')
        return compose.portMapping(own)
      })
      const host = at.kind === 'nothing' ? undefined : textOrNumber(compose.port)(at)
      return is === undefined || (host === undefined && at.kind !== 'nothing')
        ? []
        : [{ at, is: { ...is, ...defined({ host }) } }]
    }),
})

export const WEB = fields({ service: placed(text(compose.name)), port: placed(textOrNumber(compose.port)) })

// --- What not every AP has -------------------------------------------------------------------------------------------------

const GUEST_NET =
  'an AP gives a chute no network of its own: whoever is on the network of the AP reaches it at its ports'
const RADIO = 'an AP gives a chute no radio, and without one this chute would do nothing'
const TAGGED = 'an AP gives a chute no VLAN, and on the network of the AP others would reach it'
const INTERFACES: Record<string, string | undefined> = {
  'wifi-ap': undefined,
  lan: undefined,
  ...Object.fromEntries(['monitor', 'wifi-monitor', 'wifi-sta', 'wifi-airshark'].map((type) => [type, RADIO])),
  vlan: TAGGED,
}

/**
 * Nothing of it is kept. A chute that offers an access point serves as well on the network that the AP has; one that
 * listens to a radio does not without it.
 */
const networkInterface = byKind<undefined>({
  map: (value) => {
    const said = value.map()
    const word = (key: string) => {
      const at = said.get(key)
      return at && { at, is: plain(at) }
    }
    const type = word('type')
    const mode = word('mode')
    const at = type?.at ?? value
    if ((type && type.is === undefined) || (mode && mode.is === undefined)) return undefined
    const is = type === undefined || type.is === 'wifi' ? `wifi-${mode?.is ?? 'ap'}` : type.is!
    if (!Object.hasOwn(INTERFACES, is))
      return at.refuse(`is no type of interface: ${Object.keys(INTERFACES).join(', ')}`)
    const why = INTERFACES[is]
    if (why === undefined) value.note(`ignored: ${GUEST_NET}`)
    else at.refuse(`not supported in a chute: ${why}`)
    return undefined
  },
})

export const interfaces = byKind<undefined>({
  nothing: () => undefined,
  map: (value) => {
    for (const at of value.map().values()) networkInterface(at)
    return undefined
  },
})

// --- What a service asks for ------------------------------------------------------------------------------------------------

const privileged: Reader<undefined> = (value) =>
  flag(value) ? value.refuse(`not supported in a chute: ${HOST}`) : undefined
const networkMode: Reader<undefined> = (value) => {
  const mode = plain(value)
  return mode === undefined || mode === 'bridge' ? undefined : value.refuse(`not supported in a chute: ${HOST}`)
}

export const REQUESTS = fields(
  {
    'as-root': flag,
    as_root: flag,
    'port-bindings': portBindings,
    port_bindings: portBindings,
    privileged,
    'network-mode': networkMode,
    network_mode: networkMode,
  },
  {
    ignored: {
      'cpu-fraction': 'a service has half a CPU, whoever else is there',
      'random-mac-addr': 'each copy of a chute has an address of its own',
    },
  },
)

export const dns = list(placed(text(compose.address)))

/** Of a light chute. What installs packages would need a network. */
export const BUILD = fields(
  { image_source: text(compose.imageReference), image_version: textOrNumber((is) => is) },
  { ignored: { packages: 'no build has a network to fetch packages by: the base must have them' } },
)
