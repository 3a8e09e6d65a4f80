// A small image with a shell for tests that need containers: busybox, from this machine's package, with no registry.
import { execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync, readFileSync } from 'node:fs'
import type Docker from 'dockerode'
import { pack } from 'tar-stream'
import { work } from '../../node/chutes/docker-client.js'
import { platformOf } from '../../node/packages/images.js'
import { tarOf } from '../../node/packages/tar.js'
import { unhex } from '../../protocols/bytes.js'
import type { ImageSpec } from '../../protocols/deployment.js'

export const BUSYBOX = 'dropmesh-test/busybox:latest'

const BINARY = '/bin/busybox'

const MTIME = new Date(0)

const digest = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex')

/**
 * Loads dropmesh-test/busybox: every applet on the PATH, users `root` and `app` (1000), and /data, which `app` owns.
 * Equal busybox, equal image. Installs Debian's busybox-static where there is none.
 * @returns the engine's id of it.
 */
export async function ensureBusybox(docker: Docker): Promise<string> {
  const { config, layer } = await busybox()
  const manifest = [{ Config: 'config.json', RepoTags: [BUSYBOX], Layers: ['layer.tar'] }]
  const archive = tarOf([
    { name: 'config.json', size: config.length, body: [config] },
    { name: 'layer.tar', size: layer.length, body: [layer] },
    ...[Buffer.from(JSON.stringify(manifest))].map((body) => ({
      name: 'manifest.json',
      size: body.length,
      body: [body],
    })),
  ])
  await work('load busybox', archive, (body, abortSignal) => docker.loadImage(body, { abortSignal }))
  return (await docker.getImage(BUSYBOX).inspect()).Id
}

/** An image that the engine has, as a record names one without a package. For engines whose ids are the digests of configs. */
export async function imageIn(docker: Docker, name: string): Promise<ImageSpec> {
  const { Id, Os, Architecture, Variant } = await docker.getImage(name).inspect()
  return { config: unhex(Id.replace('sha256:', '')), platform: platformOf(Os, Architecture, Variant) }
}

async function busybox(): Promise<{ config: Buffer; layer: Buffer }> {
  if (!existsSync(BINARY)) execFileSync('apt-get', ['install', '-y', 'busybox-static'], { stdio: 'ignore' })
  const applets = execFileSync(BINARY, ['--list'], { encoding: 'utf8' }).trim().split('\n').sort()
  const tar = pack()
  const folder = (name: string, mode: number, uid = 0) =>
    tar.entry({ name, type: 'directory', mode, uid, gid: uid, mtime: MTIME })
  const file = (name: string, bytes: Buffer, mode = 0o644) => tar.entry({ name, mode, mtime: MTIME }, bytes)
  folder('bin/', 0o755)
  file('bin/busybox', readFileSync(BINARY), 0o755)
  for (const name of applets.filter((applet) => applet !== 'busybox')) {
    tar.entry({ name: `bin/${name}`, type: 'symlink', linkname: 'busybox', mtime: MTIME })
  }
  folder('data/', 0o755, 1000)
  folder('etc/', 0o755)
  file('etc/group', Buffer.from('root:x:0:\napp:x:1000:\n'))
  file('etc/passwd', Buffer.from('root:x:0:0:root:/:/bin/sh\napp:x:1000:1000:app:/:/bin/sh\n'))
  folder('tmp/', 0o1777)
  tar.finalize()
  const chunks: Uint8Array[] = []
  for await (const chunk of tar as AsyncIterable<Uint8Array>) chunks.push(chunk)
  const layer = Buffer.concat(chunks)
  const created = '1970-01-01T00:00:00Z'
  const config = Buffer.from(
    JSON.stringify({
      architecture: { x64: 'amd64', ia32: '386' }[process.arch as string] ?? process.arch,
      os: 'linux',
      created,
      config: { Env: ['PATH=/bin'], Cmd: ['sh'] },
      rootfs: { type: 'layers', diff_ids: [`sha256:${digest(layer)}`] },
      history: [{ created }],
    }),
  )
  return { config, layer }
}
