// How ParaDrop's light chutes are built, which have no Dockerfile: one is made for each, from the image that has the tools
// of its language. Pure.
import { imageReference, shellWords } from './compose-values.js'
import { MeshError } from './error.js'

/** Whom a light chute runs as, and who owns its files and /data. ParaDrop's number for it. */
export const LIGHT_USER = 999
export const ROOT = 0
/** Where its files are, and where it starts. */
const APP = '/opt/paradrop/app'
export const HOME = '/home/paradrop'

/** What dropmesh makes by itself: Node.js alone, without a shell or npm. */
const NODE = 'dropmesh/node'

/**
 * What makes a program of the sources, by language. There is no network: what it takes must be in the folder or in the
 * base. ParaDrop's own steps are these with a network, and installed system packages.
 */
const STEPS: Record<string, string | undefined> = {
  node: undefined,
  java: undefined,
  python2: pip('python2'),
  python3: pip('python3'),
  go:
    'export GOPROXY=off GOTOOLCHAIN=local GOCACHE=/tmp/go; ' +
    'if [ ! -f go.mod ]; then export GO111MODULE=off; fi; go build -o /usr/local/bin/app .',
  gradle: 'if [ -f build.gradle ] || [ -f build.gradle.kts ]; then gradle build --offline --no-daemon; fi',
  maven: 'mvn --offline --batch-mode -Dmaven.test.skip=true package',
}

function pip(python: string): string {
  // Debian's own pip refuses to install beside its packages without this; older ones pass over it.
  const install = `PIP_BREAK_SYSTEM_PACKAGES=1 ${python} -m pip install --no-index --find-links wheels --requirement requirements.txt`
  return `if [ -f requirements.txt ]; then ${install}; fi`
}

interface Supply {
  languages: readonly string[]
  /** The file that asks for something, and what in it does. */
  file: string
  asks: RegExp
  where: string
}

/** Where what a language takes must be, since nothing is fetched. */
export const SUPPLIES: readonly Supply[] = [
  {
    languages: ['node'],
    file: 'package.json',
    asks: /"dependencies"\s*:\s*\{\s*"/,
    where: 'node_modules of the folder (npm install --omit=dev)',
  },
  {
    languages: ['python2', 'python3'],
    file: 'requirements.txt',
    asks: /^\s*[^#\s]/m,
    where: 'the base, or wheels/ of the folder (pip download --dest wheels --requirement requirements.txt)',
  },
  { languages: ['go'], file: 'go.mod', asks: /^\s*require\b/m, where: 'vendor/ of the folder (go mod vendor)' },
  { languages: ['gradle'], file: 'build.gradle', asks: /./, where: "the base's own cache" },
  { languages: ['maven'], file: 'pom.xml', asks: /./, where: "the base's own repository" },
]

/** `python2` of `python2-cv`. */
export const languageOf = (use: string): string => use.split('-')[0]!

/** @throws MeshError where there is no such language */
export function lightUse(use: string): string {
  if (/^[a-z0-9]+(-[a-z0-9]+)*$/.test(use) && use.length <= 32 && Object.hasOwn(STEPS, languageOf(use))) return use
  throw new MeshError(
    'manifest',
    `${JSON.stringify(use.slice(0, 60))} is no language of light chutes: ${Object.keys(STEPS).join(', ')}`,
  )
}

/** @throws MeshError where light chutes use no such thing, or an image can have no such name */
export function checkBase(use: string, image: string): void {
  lightUse(use)
  imageReference(image)
}

/** @param bases what a node has instead of the defaults, by what chutes use */
export const baseOf = (use: string, bases: Readonly<Record<string, string>>): string =>
  Object.hasOwn(bases, use) ? bases[use]! : use === 'node' ? NODE : `dropmesh/light-${use}`

export const isBareNode = (base: string): boolean => /^dropmesh\/node(:latest)?$/.test(base)

/**
 * The Dockerfile of a light chute. Its one step needs a shell, and `node` has none, since dropmesh/node lacks one. Neither
 * the base needs to know of the user nor of its folders: an empty stage has /data with the right owner, which a new volume
 * takes over.
 * @param user who is to own the files, by number
 */
export function lightDockerfile(use: string, base: string, user: number): string {
  const owner = `${user}:${user}`
  const step = STEPS[languageOf(use)]
  return [
    'FROM scratch AS folders',
    'WORKDIR /own/data',
    `FROM ${base}`,
    'USER 0:0',
    `COPY --from=folders --chown=${owner} /own/ /`,
    `WORKDIR ${APP}`,
    `COPY --chown=${owner} . ./`,
    ...(step === undefined ? [] : [`RUN ${step}`]),
    ...(user === ROOT ? [] : [`ENV HOME=${HOME}`]),
    `USER ${owner}`,
    '',
  ].join('\n')
}

/** What only a shell understands: variables, pipes, patterns, and what it does itself. */
const SHELL = /[$`;&|<>()*?[\]~#{}!\n]|^\s*(\w+=|(\.|cd|eval|exec|export|set|source|trap|ulimit|umask)\s)/

/**
 * The words of a command, which ParaDrop gave to a shell as a whole: so does this where a shell is needed, for not every
 * image has one.
 * @throws MeshError where it has a quote that is never closed
 */
export function commandWords(line: string): string[] {
  return SHELL.test(line) ? ['/bin/sh', '-c', line] : shellWords(line)
}

/** Whether nothing but a shell or npm can run it. */
export const needsTools = ([program]: readonly string[]): boolean =>
  program === '/bin/sh' || program === 'sh' || program === 'npm' || program === 'npx'

/** What `npm start` does, by the text of a package.json; undefined where it is another command, or says nothing. */
export function npmStart(words: readonly string[], packageJson: string | undefined): string[] | undefined {
  if (!['npm start', 'npm run start'].includes(words.join(' ')) || packageJson === undefined) return undefined
  let said: unknown
  try {
    said = JSON.parse(packageJson)
  } catch {
    return undefined
  }
  const { scripts } = (said ?? {}) as { scripts?: { start?: unknown } }
  const { start = 'node server.js' } = scripts ?? {}
  return typeof start === 'string' ? commandWords(start) : undefined
}
