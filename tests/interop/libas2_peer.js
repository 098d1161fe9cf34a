// libas2 as a peer of `make interop`: node libas2_peer.js HOME NODE_MODULES. The three paths of wire.py.
// libas2 composes and opens messages and MDNs; HTTP, files and the MIC of what was sent are done here.
'use strict'
const fs = require('fs')
const http = require('http')
const path = require('path')
const crypto = require('crypto')
const [home, modules] = process.argv.slice(2)
const { AS2Composer, AS2Parser, AS2Disposition } = require(path.join(modules, 'libas2'))

const TIMEOUT = 40e3 // milliseconds for an asynchronous MDN
const own = (station, end) => fs.readFileSync(path.join(home, `${station}.own.${end}`), 'utf8')
const theirs = station => fs.readFileSync(path.join(home, `${station}.pem`), 'utf8')
const inbox = path.join(home, 'in')
fs.mkdirSync(inbox, { recursive: true })
const waiting = new Map()

const unquoted = name => (/^".*"$/.test(name) ? name.slice(1, -1).replace(/\\(.)/g, '$1') : name)
const escaped = name => encodeURIComponent(name).replace(/[!'()*]/g, c => '%' + c.charCodeAt(0).toString(16).toUpperCase())
const digestName = name => name && name.replace(/^sha(\d)/, 'sha-$1')

// Header block and body as one buffer: libas2's own way of joining them would turn bytes into UTF-8.
function whole (rawHeaders, body) {
  let head = ''
  for (let i = 0; i < rawHeaders.length; i += 2) head += `${rawHeaders[i]}: ${rawHeaders[i + 1]}\r\n`
  return Buffer.concat([Buffer.from(head + '\r\n', 'latin1'), body])
}

function agreement (me, to, wishes) {
  return {
    host: { name: me, id: me, url: wishes.mdnUrl || 'http://127.0.0.1/', certificate: own(to, 'crt'), privateKey: own(to, 'key'),
      decrypt: wishes.decrypt, sign: wishes.sign, mdn: wishes.hostMdn },
    partner: { name: to, id: to, url: wishes.url || 'http://127.0.0.1/', certificate: theirs(to), encrypt: wishes.encrypt,
      verify: wishes.verify, mdn: wishes.partnerMdn }
  }
}

function bytes (node) {
  return Buffer.isBuffer(node.content) ? node.content : Buffer.from(node.content || '', 'utf8')
}

async function receive (request, body) {
  const [me, station] = [unquoted(request.headers['as2-to']), unquoted(request.headers['as2-from'])]
  const facts = { status: 'processed' }
  const node = await AS2Parser.parse(whole(request.rawHeaders, body))
  let inner = node
  if (node.encrypted) inner = await node.decrypt({ cert: own(station, 'crt'), key: own(station, 'key') })
  const signed = inner.signed
  const signedReceipt = /signed-receipt-protocol/.test(request.headers['disposition-notification-options'] || '')
  const wishes = { decrypt: node.encrypted, verify: signed, partnerMdn: { signing: signedReceipt ? 'sha-256' : false } }
  const made = await node.dispositionOut({ agreement: agreement(me, station, wishes) })
  const told = made.disposition.notification.disposition
  if (!told.processed || !made.contentNode) facts.status = JSON.stringify(told)
  // The line end before a boundary belongs to the boundary (RFC 2046 §5.1.1); libas2 leaves it with a signed part.
  const content = made.contentNode && bytes(made.contentNode)
  if (content) fs.writeFileSync(path.join(inbox, escaped(me) + '.payload'), signed ? content.subarray(0, -2) : content)
  fs.writeFileSync(path.join(inbox, escaped(me) + '.json'), JSON.stringify({ status: facts.status, signed, encrypted: node.encrypted }))
  if (!request.headers['disposition-notification-to']) return null
  const mdn = await made.dispositionNode.buildObject()
  const to = request.headers['receipt-delivery-option']
  if (!to) return mdn
  setImmediate(() => post(to, mdn.headers, Buffer.from(mdn.body, 'utf8')).catch(() => {}))
  return null
}

function post (url, headers, body) {
  return new Promise((resolve, reject) => {
    const request = http.request(url, { method: 'POST', headers: { ...headers, 'Content-Length': body.length } }, answer => {
      const got = []
      answer.on('data', piece => got.push(piece))
      answer.on('end', () => resolve({ status: answer.statusCode, headers: answer.headers, raw: answer.rawHeaders, body: Buffer.concat(got) }))
    })
    request.on('error', reject)
    request.end(body)
  })
}

async function send (order) {
  const url = `http://127.0.0.1:${server.address().port}/mdn`
  const mdn = order.mdn ? { async: order.mdn === 'async', signing: order.mdn_signed ? digestName(order.sign) || 'sha-256' : false } : undefined
  const ciphers = { '3des': 'des-EDE3-CBC' }
  const encrypt = order.encrypt && (ciphers[order.encrypt] || order.encrypt.replace(/-(cbc|gcm)$/, mode => mode.toUpperCase()))
  const composer = new AS2Composer({
    message: { filename: order.name, contentType: order.type, content: fs.readFileSync(order.file), contentDisposition: 'attachment' },
    agreement: agreement(order.me, order.to, { mdnUrl: url, url: order.url, sign: digestName(order.sign) || false, encrypt: encrypt || false, hostMdn: mdn })
  })
  const options = await composer.toRequestOptions()
  if (mdn && !order.mdn_signed) delete options.headers['Disposition-Notification-Options']
  let arrived
  if (order.mdn === 'async') {
    arrived = new Promise((resolve, reject) => {
      waiting.set(order.me, resolve)
      setTimeout(() => reject(new Error('no asynchronous MDN came')), TIMEOUT).unref()
    })
  }
  let answer = await post(order.url, options.headers, Buffer.from(options.body, 'utf8'))
  const told = { http: answer.status }
  if (!mdn) return told
  if (arrived) answer = await arrived
  const text = whole(answer.raw, answer.body)
  const node = await AS2Parser.parse(text)
  told.mdn_signed = node.signed
  const report = await node.dispositionIn(node.signed ? { cert: theirs(order.to) } : undefined)
  const disposition = report.notification.disposition
  told.status = disposition.processed ? 'processed' : JSON.stringify(disposition)
  if (disposition.description) told.status = JSON.stringify(disposition)
  const mic = report.notification.receivedContentMic
  told.received_mic = mic
  return told
}

const server = http.createServer((request, answer) => {
  const pieces = []
  request.on('data', piece => pieces.push(piece))
  request.on('end', async () => {
    const body = Buffer.concat(pieces)
    let status = 200; let headers = {}; let reply = ''
    try {
      if (request.url === '/as2') {
        const mdn = await receive(request, body)
        if (mdn) { headers = mdn.headers; reply = mdn.body }
      } else if (request.url === '/mdn') {
        waiting.get(unquoted(request.headers['as2-to']))({ status: 200, raw: request.rawHeaders, body })
      } else {
        reply = JSON.stringify(await send(JSON.parse(body)))
      }
    } catch (error) {
      const trouble = String(error && error.stack)
      if (request.url === '/send') reply = JSON.stringify({ trouble })
      else {
        status = 500
        const name = escaped(unquoted(request.headers['as2-to'] || ''))
        fs.writeFileSync(path.join(inbox, name + '.json'), JSON.stringify({ status: 'crash', trouble }))
      }
    }
    const out = Buffer.from(reply, 'utf8')
    answer.writeHead(status, { ...headers, 'Content-Length': out.length })
    answer.end(out)
  })
})
server.listen(0, '127.0.0.1', () => console.log('ready', server.address().port))
process.stdin.resume().on('end', () => process.exit(0))
